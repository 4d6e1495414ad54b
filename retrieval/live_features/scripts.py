"""The Lua scripts that Redis runs. Each takes the three keys of one user, and is one atomic step.

They run on Redis 6 and later, and on Valkey. A write begins with a command that Redis refuses where its memory is full,
so it is done as a whole or not at all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    """A script.

    Attributes:
        text: Source text.
        sha: SHA-1 of the text in hexadecimal form, by which Redis knows it.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """Computes the hash."""
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


READ = Script(
    """
local newest, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])

local function newest_first()
  local events, left = {}, most_bytes
  if newest == 0 then return events end
  local ids = redis.call('ZREVRANGE', KEYS[1], 0, newest - 1)
  for first = 1, #ids, 100 do
    for _, event in ipairs(redis.call('HMGET', KEYS[2], unpack(ids, first, math.min(first + 99, #ids)))) do
      if event then
        left = left - #event
        if left < 0 then return events end
        events[#events + 1] = event
      end
    end
  end
  return events
end

local reversed = newest_first()
local events = {}
for i = #reversed, 1, -1 do events[#events + 1] = reversed[i] end
local profile, features, size = redis.call('HGETALL', KEYS[3]), {}, 0
for i = 1, #profile, 2 do
  size = size + #profile[i] + #profile[i + 1]
  if size > most_bytes then return {'too large', '[]'} end
  features[#features + 1] = cjson.encode(profile[i]) .. ':' .. profile[i + 1]
end
return {'{' .. table.concat(features, ',') .. '}', '[' .. table.concat(events, ',') .. ']'}
"""
)
"""Arguments: largest number of events, and largest size of events and of profile, in bytes; events beyond are left out.

Returns profile and events, as `retrieval.live_features.codec.StoredRecord`.
"""

WRITE = Script(
    """
local max_events, keep_ms, profile_size = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local next = 4
if profile_size > 0 then
  local given = {}
  for i = 1, profile_size do
    redis.call('HSET', KEYS[3], ARGV[next], ARGV[next + 1])
    given[ARGV[next]] = true
    next = next + 2
  end
  for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
    if not given[name] then redis.call('HDEL', KEYS[3], name) end
  end
end
local added, recorded, already_there, too_old = {}, 0, 0, 0
for i = next, #ARGV, 3 do
  local is_new = redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 2])
  is_new = is_new + redis.call('ZADD', KEYS[1], 'NX', ARGV[i + 1], ARGV[i])
  if is_new > 0 then
    added[ARGV[i]] = true
    recorded = recorded + 1
  else
    already_there = already_there + 1
  end
end
local excess = redis.call('ZCARD', KEYS[1]) - max_events
if excess > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[1], excess)
  for i = 1, #oldest, 2 do
    redis.call('HDEL', KEYS[2], oldest[i])
    if added[oldest[i]] then too_old = too_old + 1 end
  end
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep_ms) end
return {recorded - too_old, already_there, too_old}
"""
)
"""Adds events, and replaces the profile.

Arguments: `max_events`, time to keep in milliseconds, number of features of the profile (0: the profile stays as it
is), then name and JSON of each, then id, time and JSON of each event. Returns the fields of
`retrieval.live_features.records.Appended`.
"""

FORGET = Script(
    """
local function count(key)
  local size = redis.pcall('HLEN', key)
  return type(size) == 'number' and size or 0
end
local events, values = count(KEYS[2]), count(KEYS[3])
redis.call('DEL', unpack(KEYS))
return {events, values, redis.call('EXISTS', unpack(KEYS))}
"""
)
"""Deletes all keys, whatever they hold.

No arguments. Returns the fields of `retrieval.live_features.records.Forgotten`.
"""
