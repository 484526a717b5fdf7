#!lua flags=
-- KEYS[1]: a hash. ARGV: (name, value)*; a value of '' takes the field out. Writes in any case, so
-- that WAIT has something to count.
for i = 1, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return {'OK'}
