# mix run demo.exs            what the README tells, step by step
# mix run demo.exs POLICY     the first pool with another policy; the demo expects :round_robin and
#                             fails with any other, which shows that its checks can fail

# The logger would report the client that the demo kills amid the demo's lines.
Logger.configure(level: :critical)

case System.argv() do
  [] -> FantaTCP.Demo.run()
  [policy] -> FantaTCP.Demo.run(String.to_atom(policy))
end
