#!lua flags=allow-oom
-- ARGV: expected owner, expected epoch, new owner. Compare-and-set on (owner, epoch). Sent again,
-- it finds the new owner at the epoch after the expected one, which only its first try can have set.
-- Allowed beyond maxmemory: a session must have an owner before its journal can be trimmed.
local seen = redis.call('HMGET', META, 'owner', 'epoch')
if not seen[1] then
  return {'NOT_FOUND'}
end
local epoch = digits(tonumber(ARGV[2]) + 1)
if seen[1] ~= ARGV[3] or seen[2] ~= epoch then
  if seen[1] ~= ARGV[1] or seen[2] ~= ARGV[2] then
    return {'TAKEN'}
  end
  redis.call('HSET', META, 'owner', ARGV[3], 'epoch', epoch, 'op', '0')
end
refresh()
return {'OK', redis.call('HGETALL', META)}
