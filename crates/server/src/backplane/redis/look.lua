-- How a channel stands; what has expired is dropped first. A channel that nobody has published to begins here, so that
-- whoever looked at it has a position in it.
--
-- KEYS: 1 the channel's numbers, 2 log
-- ARGV: 1 whether events are kept, 2 oldest age, 3 term, 4 how long an empty channel is known
local numbers, log = KEYS[1], KEYS[2]
local keeps, age_ms = ARGV[1] == '1', tonumber(ARGV[2])
local DROPPED_AT_ONCE = 256

local function text(number) return string.format('%.0f', number) end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = math.floor(now_us / 1000)
local known = redis.call('HMGET', numbers, 'head', 'total', 'floor', 'floor_total', 'oldest', 'seams')
if not known[1] then
  local head = text(now_us)
  redis.call('HSET', numbers, 'head', head, 'floor', head, 'term', ARGV[3])
  redis.call('PEXPIRE', numbers, ARGV[4])
  return { head, head, '0', '0', text(now + tonumber(ARGV[4]) / 4), '' }
end
local head, total, floor = tonumber(known[1]), tonumber(known[2] or 0), tonumber(known[3])
local floor_total, oldest, seams = tonumber(known[4] or 0), tonumber(known[5] or 0), known[6] or ''
if redis.call('PTTL', numbers) >= 0 and redis.call('PTTL', numbers) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', numbers, ARGV[4])
end
local length = 0
if keeps then
  length = redis.call('XLEN', log)
  local before, dropped = floor, 0
  while length > 0 and oldest + age_ms <= now and dropped < DROPPED_AT_ONCE do
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 2)
    redis.call('XDEL', log, first[1][1])
    floor, floor_total, oldest = tonumber(string.match(first[1][1], '^%d+')), tonumber(first[1][2][4]), 0
    if first[2] then oldest = tonumber(first[2][2][2]) end
    length = length - 1
    dropped = dropped + 1
  end
  if length == 0 then floor, floor_total, oldest = head, total, 0 end
  if floor ~= before then
    redis.call('HSET', numbers, 'floor', text(floor), 'floor_total', text(floor_total), 'oldest', text(oldest))
  end
end
-- Whoever follows it looks again before an empty one is forgotten.
local expires = now + tonumber(ARGV[4]) / 4
if oldest > 0 then expires = oldest + age_ms end
local said = { text(head), text(floor), text(length), text(total - floor_total), text(expires), seams }
if length > 0 then
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  table.insert(said, string.match(newest[1], '^%d+'))
  table.insert(said, newest[2][2])
  table.insert(said, newest[2][6])
  table.insert(said, newest[2][10])
end
return said
