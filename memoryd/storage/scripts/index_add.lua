#!lua flags=allow-oom
-- KEYS[1]: a tenant's index. ARGV: session name, the most sessions ('0': no limit). A name that is
-- listed already is always taken.
local limit = tonumber(ARGV[2])
if limit > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  local sessions = redis.call('ZCARD', KEYS[1])
  if sessions >= limit then
    return {'FULL', sessions}
  end
end
redis.call('ZADD', KEYS[1], '0', ARGV[1])
return {'OK'}
