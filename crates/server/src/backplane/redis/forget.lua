-- Forgets what was announced, unless something else was since: KEYS[1] the board; ARGV subjects, each with what was said.
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 0
