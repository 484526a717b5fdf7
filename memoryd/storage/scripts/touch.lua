#!lua flags=allow-oom
-- ARGV: generation, owner, epoch. Puts off the session's expiry.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
refresh()
return {'OK'}
