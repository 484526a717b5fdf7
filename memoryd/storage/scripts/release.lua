#!lua flags=allow-oom
-- ARGV: generation, owner, epoch. Sent again, it finds no owner at the same epoch, and agrees.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no and no[1] == 'FENCED' and no[2] == ARGV[1] and no[3] == '' and no[4] == ARGV[3] then
  no = nil
end
if no then
  return no
end
redis.call('HSET', META, 'owner', '')
refresh()
return {'OK'}
