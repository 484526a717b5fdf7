#!lua flags=allow-oom
-- KEYS[1]: a tenant's index. ARGV: session name.
redis.call('ZADD', KEYS[1], '0', ARGV[1])
return {'OK'}
