-- Appends an event to a channel's log, unless its idempotency key was used before or its state has no room, drops
-- what retention no longer covers, and tells those who follow the channel. All of it happens at one moment.
--
-- KEYS: 1 the channel's numbers, 2 log, 3 state, 4 receipts, 5 receipts in their order
-- ARGV: 1 term, 2 feed, 3 node, 4 record, 5 bytes, 6 whether it is kept, 7 most events, 8 most bytes, 9 oldest age,
--       10 idempotency key, 11 digest, 12 age of receipts, 13 most receipts,
--       14 key in the state, 15 whether it leaves the state, 16 most keys, 17 most bytes of the state, 18 most seams,
--       19 whether this Redis may have lost what was acknowledged before its term, 20 how to publish
local numbers, log, state, receipts, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local term, feed, node, record, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local keeps = ARGV[6] == '1'
local events_max, bytes_max, age_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local receipt_key, digest, receipt_ms, receipts_max = ARGV[10], ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13])
local state_key, leaves = ARGV[14], ARGV[15] == '1'
local keys_max, state_max, seams_max = tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18])
-- An entry of the state is 20 digits of the offset, 16 of the time, and the record, which is 22 bytes longer than what
-- counts.
local ENTRY_EXTRA = 58
-- When to look again at a channel in which nothing can expire.
local LOOK_MS = 900000
-- How many old things one event has dropped at the most; the next ones go on.
local DROPPED_AT_ONCE = 64

local function text(number) return string.format('%.0f', number) end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = math.floor(now_us / 1000)
local known = redis.call('HMGET', numbers, 'head', 'time', 'total', 'count', 'floor', 'floor_total', 'oldest', 'keys',
  'bytes', 'term', 'seams')
local head, time, total = tonumber(known[1] or now_us), tonumber(known[2] or 0), tonumber(known[3] or 0)
local count, floor, floor_total = tonumber(known[4] or 0), tonumber(known[5] or head), tonumber(known[6] or 0)
local oldest, keys, bytes = tonumber(known[7] or 0), tonumber(known[8] or 0), tonumber(known[9] or 0)
local seams = known[11] or ''

if receipt_key ~= '' then
  local receipt = redis.call('HGET', receipts, receipt_key)
  if receipt then
    local offset, at, number, seen = string.match(receipt, '^(%d+) (%d+) (%d+) (%x+)$')
    if tonumber(at) + receipt_ms > now and count - tonumber(number) < receipts_max then
      -- A write, so that whoever waits for replicas waits for what was written before it.
      redis.call('PEXPIRE', receipts, text(receipt_ms))
      return { 'known', offset, at, seen }
    end
  end
end

if state_key ~= '' then
  local before = redis.call('HSTRLEN', state, state_key)
  local new_keys, new_bytes = keys, bytes
  if before > 0 then
    new_keys = new_keys - 1
    new_bytes = math.max(0, new_bytes - (before - ENTRY_EXTRA))
  end
  if not leaves then
    new_keys = new_keys + 1
    new_bytes = new_bytes + size
  end
  local grows = new_keys > keys or new_bytes > bytes
  if grows and (new_keys > keys_max or new_bytes > state_max) then return { 'full' } end
  keys, bytes = new_keys, new_bytes
end

-- Another process answers than the one that appended last: what that one acknowledged may be lost, and its ids must
-- not be given anew. The clock is ahead of all of them; should it not be, a leap is.
local prev, mark = head, ''
if known[10] and known[10] ~= term then
  local to = math.max(head + 1000000, now_us)
  if ARGV[19] == '1' then mark = '!' end
  seams = seams .. text(head) .. ':' .. text(to) .. mark .. ','
  local _, many = string.gsub(seams, ',', '')
  if many > seams_max then
    local lost_to, rest = string.match(seams, '^%d+:(%d+)!?,(.*)$')
    seams = rest
    if tonumber(lost_to) > floor then
      floor = tonumber(lost_to)
      redis.call('XTRIM', log, 'MINID', '=', text(floor + 1) .. '-0')
      local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
      floor_total, oldest = total, 0
      if first then
        floor_total, oldest = tonumber(first[2][4]) - tonumber(first[2][8]), tonumber(first[2][2])
      end
    end
  end
  head = to
end

local offset = head + 1
time = math.max(time, now)
total = total + size
count = count + 1
local length = 0
if keeps then
  redis.call('XADD', log, text(offset) .. '-0', 't', text(time), 'n', text(total), 'p', text(prev) .. mark, 's', text(size),
    'e', record)
  length = redis.call('XLEN', log)
  if length == 1 then oldest, floor, floor_total = time, math.max(floor, prev), total - size end
  local dropped = 0
  while dropped < DROPPED_AT_ONCE and length > 0
    and (length > events_max or total - floor_total > bytes_max or oldest + age_ms <= now) do
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 2)
    local id = string.match(first[1][1], '^%d+')
    redis.call('XDEL', log, first[1][1])
    floor, floor_total, oldest = tonumber(id), tonumber(first[1][2][4]), 0
    if first[2] then oldest = tonumber(first[2][2][2]) end
    length = length - 1
    dropped = dropped + 1
  end
  redis.call('PEXPIRE', log, text(age_ms))
else
  floor, floor_total, oldest = offset, total, 0
end

if state_key ~= '' then
  if leaves then
    redis.call('HDEL', state, state_key)
  else
    redis.call('HSET', state, state_key, string.format('%020.0f%016.0f', offset, time) .. record)
  end
end

if receipt_key ~= '' and receipts_max > 0 then
  redis.call('HSET', receipts, receipt_key, text(offset) .. ' ' .. text(time) .. ' ' .. text(count) .. ' ' .. digest)
  redis.call('XADD', order, text(offset) .. '-0', 'k', receipt_key, 't', text(time), 'c', text(count))
  local first = redis.call('XRANGE', order, '-', '+', 'COUNT', 4)
  for _, entry in ipairs(first) do
    local key, at, number = entry[2][2], tonumber(entry[2][4]), tonumber(entry[2][6])
    if at + receipt_ms > now and count - number < receipts_max then break end
    redis.call('XDEL', order, entry[1])
    -- The key may have been used anew since.
    local receipt = redis.call('HGET', receipts, key)
    if receipt and string.match(receipt, '^(%d+) ') == string.match(entry[1], '^%d+') then
      redis.call('HDEL', receipts, key)
    end
  end
  redis.call('PEXPIRE', receipts, text(receipt_ms))
  redis.call('PEXPIRE', order, text(receipt_ms))
end

redis.call('HSET', numbers, 'head', text(offset), 'time', text(time), 'total', text(total), 'count', text(count),
  'floor', text(floor), 'floor_total', text(floor_total), 'oldest', text(oldest), 'keys', text(keys),
  'bytes', text(bytes), 'term', term, 'seams', seams)
-- A channel is forgotten a day after all that it had is gone; a state stays until its keys are removed.
if keys > 0 then
  redis.call('PERSIST', numbers)
else
  redis.call('PEXPIRE', numbers, text(math.max(age_ms, receipt_ms) + 86400000))
end

local expires = now + LOOK_MS
if oldest > 0 then expires = oldest + age_ms end
local said = { text(offset), text(time), text(prev) .. mark, text(floor), text(length), text(total - floor_total), text(expires) }
redis.call(ARGV[20], feed, node .. ' ' .. table.concat(said, ' ') .. '\n' .. record)
table.insert(said, 1, 'stored')
return said
