#!lua flags=allow-oom
-- KEYS[1]: a tenant's running replies by daemon, each `<count> <ms at which it is forgotten>`. ARGV:
-- daemon, its replies, the most of all daemons together ('0': only tell), ms until it is forgotten.
-- A daemon that dies is forgotten with its replies.
local running, now, others = KEYS[1], now_ms(), 0
local stored = redis.call('HGETALL', running)
for i = 1, #stored, 2 do
  local count, until_ms = string.match(stored[i + 1], '^(%d+) (%d+)$')
  if tonumber(until_ms) <= now then
    redis.call('HDEL', running, stored[i])
  elseif stored[i] ~= ARGV[1] then
    others = others + tonumber(count)
  end
end
local limit = tonumber(ARGV[3])
if limit > 0 and others + tonumber(ARGV[2]) > limit then
  return {'FULL', others}
end
redis.call('HSET', running, ARGV[1], ARGV[2] .. ' ' .. digits(now + tonumber(ARGV[4])))
redis.call('PEXPIRE', running, ARGV[4])
return {'OK', others}
