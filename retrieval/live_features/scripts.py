"""The Lua scripts that Redis runs. Each takes the three keys of one user, and is one atomic step.

They run on Redis 6 and later, and on Valkey. A write begins with a command that Redis refuses where its memory is full,
so it is done as a whole or not at all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True)
class Script:
    """A script.

    Attributes:
        text: Source text.
        reply: Type of each value that it returns.
        sha: SHA-1 of the text in hexadecimal form, by which Redis knows it.
    """

    text: str
    reply: tuple[type, ...]
    sha: str = field(init=False)

    def returns(self, reply: object) -> bool:
        """Returns whether a reply can be one of this script; other servers answer otherwise."""
        return isinstance(reply, list) and tuple(map(type, cast("list[object]", reply))) == self.reply

    def __post_init__(self) -> None:
        """Computes the hash."""
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


READ = Script(
    """
local newest, most_bytes, most_features = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function newest_first()
  local events, left = {}, most_bytes
  for first = 0, newest - 1, 100 do
    local ids, fit = redis.call('ZREVRANGE', KEYS[1], first, math.min(first + 99, newest - 1)), {}
    for _, id in ipairs(ids) do
      left = left - redis.call('HSTRLEN', KEYS[2], id)
      if left < 0 then break end
      fit[#fit + 1] = id
    end
    if #fit > 0 then
      for _, event in ipairs(redis.call('HMGET', KEYS[2], unpack(fit))) do
        if event then events[#events + 1] = event end
      end
    end
    if left < 0 or #ids < 100 then break end
  end
  return events
end

local reversed = newest_first()
local events = {}
for i = #reversed, 1, -1 do events[#events + 1] = reversed[i] end
local size, features = 0, {}
if redis.call('HLEN', KEYS[3]) > most_features then return {'too large', '[]'} end
for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
  size = size + #name + redis.call('HSTRLEN', KEYS[3], name)
  if size > most_bytes then return {'too large', '[]'} end
end
local profile = redis.call('HGETALL', KEYS[3])
for i = 1, #profile, 2 do
  features[#features + 1] = cjson.encode(profile[i]) .. ':' .. profile[i + 1]
end
return {'{' .. table.concat(features, ',') .. '}', '[' .. table.concat(events, ',') .. ']'}
""",
    (bytes, bytes),
)
"""Arguments: largest number of events, largest size of events and of profile in bytes, largest number of features of
the profile; events beyond are left out. Sizes are looked at before values are copied, whoever wrote them.

Returns profile and events, as `retrieval.live_features.codec.StoredRecord`.
"""

WRITE = Script(
    """
local max_events, keep_ms, profile_size = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local next = 4
-- Each of these raises an error if the key is of another type, before anything is written.
redis.call('ZCARD', KEYS[1])
redis.call('HLEN', KEYS[2])
redis.call('HLEN', KEYS[3])
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
""",
    (int, int, int),
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
""",
    (int, int, int),
)
"""Deletes all keys, whatever they hold.

No arguments. Returns the fields of `retrieval.live_features.records.Forgotten`.
"""
