-- A channel's state and the newest offset, of one moment.
--
-- KEYS: 1 the channel's numbers, 2 log, 3 state
-- ARGV: 1 whether the state is keyed
local known = redis.call('HMGET', KEYS[1], 'head', 'floor', 'total', 'floor_total')
local head, floor = known[1] or '0', known[2] or '0'
local length = redis.call('XLEN', KEYS[2])
local bytes = 0
if length > 0 then bytes = tonumber(known[3] or 0) - tonumber(known[4] or 0) end
local said = { head, floor, tostring(length), string.format('%.0f', bytes) }
if ARGV[1] == '1' then
  table.insert(said, redis.call('HVALS', KEYS[3]))
else
  table.insert(said, redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1))
end
return said
