-- Deletes all that a channel has; its ids go on from where they were.
--
-- KEYS: 1 the channel's numbers, 2 log, 3 state, 4 receipts, 5 receipts in their order
-- ARGV: 1 feed, 2 node, 3 how to publish
local known = redis.call('HMGET', KEYS[1], 'head', 'total')
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
if not known[1] then return '0' end
redis.call('HSET', KEYS[1], 'floor', known[1], 'floor_total', known[2] or '0', 'oldest', '0', 'keys', '0', 'bytes', '0')
redis.call(ARGV[3], ARGV[1], ARGV[2] .. ' deleted ' .. known[1] .. '\n')
return known[1]
