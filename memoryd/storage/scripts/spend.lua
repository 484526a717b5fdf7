#!lua flags=allow-oom
-- KEYS[1]: a tenant's bucket of tokens. ARGV: daemon, its operation, tokens a minute, tokens that it
-- has used beyond what it was given, tokens that it wants. The bucket holds a minute's tokens and
-- fills up evenly; what was used is always taken, below nothing if need be, so that a debt is paid
-- before anybody is given more. The same operation sent again is answered as the first time.
local bucket, mine, limit = KEYS[1], 'op:' .. ARGV[1], tonumber(ARGV[3])
local seen = redis.call('HMGET', bucket, 'level', 'at_ms', mine)
local op, granted, left = string.match(seen[3] or '', '^(%d+) (%d+) (-?%d+)$')
if op == ARGV[2] then
  redis.call('HSET', bucket, mine, seen[3])
  return {'OK', granted, left}
end
local now, level = now_ms(), limit
if seen[1] then
  local passed = math.max(0, now - tonumber(seen[2]))
  level = math.min(limit, tonumber(seen[1]) + passed * limit / 60000)
end
level = level - tonumber(ARGV[4])
granted = math.max(0, math.min(tonumber(ARGV[5]), math.floor(level)))
level = level - granted
granted, left = digits(granted), digits(math.floor(level))
redis.call('HSET', bucket, 'level', string.format('%.3f', level), 'at_ms', digits(now),
  mine, ARGV[2] .. ' ' .. granted .. ' ' .. left)
-- A full bucket and none are the same; the rest of the time is for an operation sent again.
redis.call('PEXPIRE', bucket, digits(math.ceil((limit - level) * 60000 / limit) + 60000))
return {'OK', granted, left}
