#!lua flags=
-- ARGV: generation, model, ttl_ms, archive, labels. A create that is sent again finds its own
-- generation and is answered as the first time.
local stored = redis.call('HGET', META, 'generation')
if stored and stored ~= ARGV[1] then
  return {'EXISTS', stored}
end
if not stored then
  redis.call('HSET', META, 'generation', ARGV[1], 'owner', '', 'epoch', '0', 'next', '0',
    'op', '0', 'model', ARGV[2], 'ttl_ms', ARGV[3], 'archive', ARGV[4], 'labels', ARGV[5],
    'created_ms', digits(now_ms()))
end
refresh()
return {'OK', redis.call('HGETALL', META)}
