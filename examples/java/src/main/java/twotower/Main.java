package twotower;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.*;
import io.grpc.protobuf.StatusProto;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.*;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import twotower.ann.v1.*;
import twotower.query.v1.*;

/**
 * Asks both services of a two-tower pair, as a client in Java would: features to ranked items.
 *
 * <p>It follows the models through swaps: see "A client in another language" in docs/operating.md.
 */
public final class Main {
    private static final int MAX_ROUNDS = 6;
    private static final String SERVICE_CONFIG = """
        {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [{"name": [{}], "waitForReady": true, "retryPolicy": {
            "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]}""";

    private final QueryTowerServiceGrpc.QueryTowerServiceBlockingStub tower;
    private final AnnServiceGrpc.AnnServiceBlockingStub ann;
    private volatile String pin = ""; // model that the ANN service reported live last

    private Main(String towers, String anns) throws Exception {
        tower = QueryTowerServiceGrpc.newBlockingStub(connect(towers));
        ann = AnnServiceGrpc.newBlockingStub(connect(anns));
    }

    private record Answer(String embedded, String searched, String bundle, List<Float> vector, List<String> items) {}

    /** Embeds a query and searches its neighbours. An embedding is only searched in an index of its own model. */
    private Answer retrieve(Query query, int k, Deadline deadline) {
        String wanted = pin;
        String embedded = "";
        var search = Search.newBuilder().setK(k);
        List<List<String>> refusals = new ArrayList<>();
        for (int round = 0; round < MAX_ROUNDS; round++) {
            String asked = wanted;
            try {
                if (embedded.isEmpty() || !wanted.equals(embedded)) {
                    var made = tower.withDeadline(deadline).embedQueries(
                        EmbedQueriesRequest.newBuilder().setModelVersion(wanted).addQueries(query).build());
                    embedded = made.getModelVersion();
                    search.getEmbeddingBuilder().clear().addAllValues(made.getEmbeddings(0).getValuesList());
                }
                asked = embedded;
                var found = ann.withDeadline(deadline).searchItems(
                    SearchItemsRequest.newBuilder().setModelVersion(embedded).addSearches(search).build());
                pin = found.getNewestModelVersion();
                return new Answer(embedded, found.getModelVersion(), found.getBundleVersion(),
                    search.getEmbedding().getValuesList(), found.getResults(0).getItemIdsList());
            } catch (StatusRuntimeException error) {
                List<String> models = new ArrayList<>(served(error));
                models.remove(asked);
                refusals.add(models);
                wanted = choose(refusals);
            }
        }
        throw new IllegalStateException("the services share no model: " + refusals);
    }

    /** Returns the models that a replica has open. Throws the error again if it is no refusal for lack of the model. */
    private static List<String> served(StatusRuntimeException error) {
        try {
            for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
                var info = detail.is(ErrorInfo.class) ? detail.unpack(ErrorInfo.class) : ErrorInfo.getDefaultInstance();
                if (info.getReason().equals("MODEL_NOT_SERVED")) {
                    return List.of(info.getMetadataOrDefault("model_versions", "").split(","));
                }
            }
        } catch (InvalidProtocolBufferException broken) {
            error.addSuppressed(broken);
        }
        throw error;
    }

    /** Returns the model that is missing from the fewest refusals; among equals, the first of the latest one. */
    private static String choose(List<List<String>> refusals) {
        String best = "";
        long fewest = Long.MAX_VALUE;
        for (int number = refusals.size() - 1; number >= 0; number--) {
            for (String model : refusals.get(number)) {
                long missing = refusals.stream().filter(models -> !models.contains(model)).count();
                if (missing < fewest) {
                    best = model;
                    fewest = missing;
                }
            }
        }
        return best;
    }

    private static ManagedChannel connect(String addresses) throws Exception {
        String target = new URI("list", "", "/" + addresses, null).toString();
        return Grpc.newChannelBuilder(target, InsecureChannelCredentials.create())
            .defaultServiceConfig(new Gson().<Map<String, ?>>fromJson(SERVICE_CONFIG, Map.class)).build();
    }

    /** Resolves targets such as {@code list:///127.0.0.1:50051,127.0.0.1:50053}: gRPC for Java has no fixed lists. */
    private static final class Addresses extends NameResolverProvider {
        @Override public NameResolver newNameResolver(URI target, NameResolver.Args arguments) {
            var replicas = Arrays.stream(target.getPath().substring(1).split(",")).map(address -> {
                int colon = address.lastIndexOf(':');
                int port = Integer.parseInt(address.substring(colon + 1));
                return new EquivalentAddressGroup(new InetSocketAddress(address.substring(0, colon), port));
            }).toList();
            return new NameResolver() {
                @Override public void start(Listener2 listener) {
                    var found = StatusOr.fromValue(replicas);
                    listener.onResult(ResolutionResult.newBuilder().setAddressesOrError(found).build());
                }
                @Override public String getServiceAuthority() { return "replicas"; }
                @Override public void shutdown() {}
            };
        }
        @Override public String getDefaultScheme() { return "list"; }
        @Override protected boolean isAvailable() { return true; }
        @Override protected int priority() { return 5; }
    }

    /** Prints the answers as JSON, one a line. With 0 calls, it asks until standard input ends. */
    public static void main(String[] arguments) throws Exception {
        Map<String, String> flags = new TreeMap<>(Map.of("query-tower", "127.0.0.1:50051", "ann", "127.0.0.1:50052",
            "history", "", "calls", "1", "callers", "1")); // commas between addresses, and between item ids
        for (int i = 0; i < arguments.length; i += 2) {
            String name = arguments[i].replaceFirst("^--?", "");
            if (i + 1 == arguments.length || flags.replace(name, arguments[i + 1]) == null) {
                System.err.println("not a flag with a value: " + arguments[i] + "; flags and defaults: " + flags);
                System.exit(2);
            }
        }
        NameResolverRegistry.getDefaultRegistry().register(new Addresses());
        var retriever = new Main(flags.get("query-tower"), flags.get("ann"));
        var query = Query.newBuilder();
        if (!flags.get("history").isEmpty()) {
            var items = StringList.newBuilder().addAllValues(List.of(flags.get("history").split(",")));
            query.putFeatures("history", FeatureValues.newBuilder().setStrings(items).build());
        }
        long calls = Long.parseLong(flags.get("calls"));
        int callers = Integer.parseInt(flags.get("callers"));
        var failed = new AtomicInteger();
        var ended = new AtomicBoolean();
        var json = new GsonBuilder().setFieldNamingPolicy(FieldNamingPolicy.UPPER_CAMEL_CASE).create();
        var threads = Executors.newCachedThreadPool();
        if (calls == 0) {
            threads.submit(() -> {
                System.in.transferTo(OutputStream.nullOutputStream());
                ended.set(true);
                return null;
            });
        }
        threads.invokeAll(IntStream.range(0, callers).mapToObj(caller -> Executors.callable(() -> {
            for (long number = caller; (calls == 0 || number < calls) && !ended.get(); number += callers) {
                try {
                    var found = retriever.retrieve(query.build(), 5, Deadline.after(5, TimeUnit.SECONDS));
                    System.out.println(json.toJson(found));
                } catch (RuntimeException error) {
                    failed.incrementAndGet();
                    System.err.println(error);
                }
            }
        })).toList());
        System.exit(failed.get() > 0 ? 1 : 0);
    }
}
