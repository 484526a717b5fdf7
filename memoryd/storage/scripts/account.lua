#!lua flags=allow-oom
-- KEYS[1]: a tenant's hash of bytes by session; its field '' is their sum, which no session can be
-- called. ARGV: (session name, bytes)*; -1 bytes takes a session that is gone out
-- of both. Beyond maxmemory, too: what was deleted has to be counted.
local bytes, index = KEYS[1], string.sub(KEYS[1], 1, -#'bytes' - 1) .. 'index'
local change = 0
for i = 1, #ARGV, 2 do
  local before = tonumber(redis.call('HGET', bytes, ARGV[i]) or '0')
  local now = tonumber(ARGV[i + 1])
  if now < 0 then
    redis.call('ZREM', index, ARGV[i])
    redis.call('HDEL', bytes, ARGV[i])
    change = change - before
  else
    redis.call('ZADD', index, '0', ARGV[i])
    redis.call('HSET', bytes, ARGV[i], ARGV[i + 1])
    change = change + now - before
  end
end
local total = redis.call('HINCRBY', bytes, '', digits(change))
if redis.call('HLEN', bytes) == 1 then
  redis.call('DEL', bytes)
end
return {'OK', redis.call('ZCARD', index), total}
