#!lua flags=allow-oom
-- ARGV: generation, owner, epoch, ttl_ms, labels as they were read, labels to store. Allowed beyond
-- maxmemory: labels are few, and a shorter life is one way to free memory. Sent again, it finds
-- the labels stored.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local labels = redis.call('HGET', META, 'labels')
if labels ~= ARGV[5] and labels ~= ARGV[6] then
  return {'CHANGED'}
end
redis.call('HSET', META, 'ttl_ms', ARGV[4], 'labels', ARGV[6])
if ARGV[4] == '0' then
  redis.call('PERSIST', META)
  for _, key in ipairs(data_keys()) do
    redis.call('PERSIST', key)
  end
end
refresh()
return {'OK', redis.call('HGETALL', META)}
