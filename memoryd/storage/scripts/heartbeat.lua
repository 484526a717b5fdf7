#!lua flags=allow-oom
-- KEYS[1]: a daemon's heartbeat. ARGV: its address, the time to live in ms. A script only because
-- a plain SET is refused beyond maxmemory, and the daemon would then count as dead.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'OK'}
