// Command retrieve asks both services of a two-tower pair, as a client in Go would: features to ranked items.
//
// It follows the models through swaps: see "A client in another language" in docs/operating.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // replicas that are not ready get no calls
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	annv1 "twotower/ann/v1"
	queryv1 "twotower/query/v1"
)

const maxRounds = 6
const serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""},
  "methodConfig": [{"name": [{}], "waitForReady": true, "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.05s",
  "maxBackoff": "0.5s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}`

type retriever struct {
	tower queryv1.QueryTowerServiceClient
	ann   annv1.AnnServiceClient
	pin   atomic.Value // model that the ANN service reported live last
}

type answer struct {
	Embedded, Searched, Bundle string
	Vector                     []float32
	Items                      []string
}

// retrieve embeds a query and searches its neighbours. An embedding is only searched in an index of its own model.
func (r *retriever) retrieve(ctx context.Context, query *queryv1.Query, k int32) (*answer, error) {
	wanted, _ := r.pin.Load().(string)
	embedded, vector := "", []float32(nil)
	var refusals [][]string
	refused := func(err error, model string) bool {
		models, ok := notServed(err)
		if ok {
			refusals = append(refusals, without(models, model))
			wanted = choose(refusals)
		}
		return ok
	}
	for range maxRounds {
		if embedded == "" || wanted != embedded {
			made, err := r.tower.EmbedQueries(ctx, &queryv1.EmbedQueriesRequest{
				ModelVersion: wanted, Queries: []*queryv1.Query{query}})
			if refused(err, wanted) {
				continue
			} else if err != nil {
				return nil, err
			}
			embedded, vector = made.ModelVersion, made.Embeddings[0].Values
		}
		found, err := r.ann.SearchItems(ctx, &annv1.SearchItemsRequest{ModelVersion: embedded, Searches: []*annv1.Search{
			{Target: &annv1.Search_Embedding{Embedding: &annv1.Embedding{Values: vector}}, K: k}}})
		if refused(err, embedded) {
			continue
		} else if err != nil {
			return nil, err
		}
		r.pin.Store(found.NewestModelVersion)
		return &answer{embedded, found.ModelVersion, found.BundleVersion, vector, found.Results[0].ItemIds}, nil
	}
	return nil, fmt.Errorf("the services share no model: %v", refusals)
}

// notServed returns the models that a replica has open, if it refused a call because it lacks the model of the call.
func notServed(err error) ([]string, bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Reason == "MODEL_NOT_SERVED" {
			return strings.Split(info.Metadata["model_versions"], ","), true
		}
	}
	return nil, false
}

// choose returns the model that is missing from the fewest refusals; among equals, the first of the latest one.
func choose(refusals [][]string) string {
	best, fewest := "", len(refusals)+1
	for i := len(refusals) - 1; i >= 0; i-- {
		for _, model := range refusals[i] {
			missing := 0
			for _, other := range refusals {
				if !slices.Contains(other, model) {
					missing++
				}
			}
			if missing < fewest {
				best, fewest = model, missing
			}
		}
	}
	return best
}

func without(models []string, refused string) []string {
	return slices.DeleteFunc(models, func(model string) bool { return model == refused })
}

func connect(addresses string) *grpc.ClientConn {
	list := manual.NewBuilderWithScheme("list")
	state := resolver.State{}
	for _, address := range strings.Split(addresses, ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	list.InitialState(state)
	connection, err := grpc.NewClient("list:///replicas", grpc.WithResolvers(list),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		panic(err)
	}
	return connection
}

func main() {
	tower := flag.String("query-tower", "127.0.0.1:50051", "addresses of the query tower service, with commas")
	ann := flag.String("ann", "127.0.0.1:50052", "addresses of the ANN service, with commas")
	history := flag.String("history", "", "item ids, oldest first, with commas")
	calls := flag.Int("calls", 1, "number of retrieves; 0: until standard input ends")
	callers := flag.Int("callers", 1, "number of goroutines")
	flag.Parse()
	r := &retriever{tower: queryv1.NewQueryTowerServiceClient(connect(*tower)), ann: annv1.NewAnnServiceClient(connect(*ann))}
	query := &queryv1.Query{Features: map[string]*queryv1.FeatureValues{}}
	if *history != "" {
		query.Features["history"] = &queryv1.FeatureValues{Kind: &queryv1.FeatureValues_Strings{
			Strings: &queryv1.StringList{Values: strings.Split(*history, ",")}}}
	}
	var group sync.WaitGroup
	var lock sync.Mutex
	var failed atomic.Int64
	var ended atomic.Bool
	if *calls == 0 {
		*calls = math.MaxInt
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			ended.Store(true)
		}()
	}
	out := json.NewEncoder(os.Stdout)
	for caller := range *callers {
		group.Go(func() {
			for number := caller; number < *calls && !ended.Load(); number += *callers {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				found, err := r.retrieve(ctx, query, 5)
				cancel()
				lock.Lock()
				if err != nil {
					failed.Add(1)
					fmt.Fprintln(os.Stderr, err)
				} else {
					_ = out.Encode(found)
				}
				lock.Unlock()
			}
		})
	}
	group.Wait()
	if failed.Load() > 0 {
		os.Exit(1)
	}
}
