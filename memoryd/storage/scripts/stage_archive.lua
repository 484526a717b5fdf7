#!lua flags=
-- ARGV: new generation, bytes staged so far, seconds to live, piece*. Puts the next pieces of an
-- archive that is being copied behind those before. Sent again, it finds them there. Once the
-- generation lives, a late call must not make its archive expire.
if redis.call('HGET', META, 'generation') == ARGV[1] or generation_kept(ARGV[1]) then
  return {'OK'}
end
local key = data_key('archive', ARGV[1])
local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
local staged = last and tonumber(string.match(last[1], '^%d+')) or 0
local at = tonumber(ARGV[2])
if staged == at then
  for i = 4, #ARGV do
    at = at + #ARGV[i]
    redis.call('XADD', key, digits(at) .. '-0', 'a', ARGV[i])
  end
else
  for i = 4, #ARGV do
    at = at + #ARGV[i]
  end
  if staged ~= at then
    return {'GAP', digits(staged)}
  end
end
redis.call('EXPIRE', key, ARGV[3])
return {'OK'}
