defmodule Mix.Tasks.Demo do
  @shortdoc "Shows grpc_lb over real TCP connections, and checks what it shows"

  @moduledoc """
  Balances real requests over real connections, while servers die, join and leave.

      $ mix demo
      $ mix demo --seconds 30
      $ mix demo --scene pool
      $ mix demo --policy peak_ewma --slow 1 --flaky 1

  Every server is an operating-system process with a TCP port on the loopback interface. One client
  process for each connection multiplexes the requests of all callers, and answers come back out of
  order.

  ## Scenes

    * `balancer`: 32 callers pick from one round-robin balancer over five servers, at least 100,000
      times altogether. One server is killed with `SIGKILL`: its callers get errors, nobody hangs,
      and no pick chooses it once its client has ended. Two new servers are reconciled in. One
      server is reconciled out, and stopped when its last request has been answered.
    * `pool`: 16 callers pick from a `GrpcLb.Pool` of four connections to one server. A process
      joins, a member leaves, and a member is killed and replaced by the pool's supervisor.
    * `connection`: a `GrpcLb.Connection` resolves a target to three servers. One is killed; picks go
      on to the others. It comes back at the same address, and into the rotation.
    * `restart`: the three servers of a connection restart one after the other. Each tells its client that
      it goes, answers what it is still sent, and ends when that has gone. No call fails.
    * `cost`: a pick is timed beside round robin built from the BEAM's own parts.

  A terminal shows it all as it happens. Elsewhere, or with `NO_COLOR` set or `TERM=dumb`, there is
  a line a second. At the end of a scene comes a sentence that says what happened, and what was
  counted: callers, balancer and servers must agree.

  The exit status is 1 if a check fails, or if all this takes 90 seconds. No server outlives the
  demo, however that ends.

  ## With a policy

  `--policy` shows that policy with outlier detection beside round robin alone. Each has five servers
  of its own, and both get the same calls at the same moments, 50 a second. A good server needs 80 ms
  for a call, and works on many at the same time. A slow one needs ten times as long, and a flaky
  one fails 30 % of its calls.

  Outlier detection looks every 0.5 s, and ejects for 5 s at first and then for longer. A flaky server
  that comes back fails calls until the next look: so some fail all along. In the first 1.5 s it
  finds out who is flaky. Without these it is checked that

    * what callers, balancers and servers counted adds up, and only flaky servers fail;
    * round robin alone fails as many calls as the share of the flaky servers suggests;
    * with outlier detection less than 2 % fail, if less than half of the servers are flaky and one
      is good. Not with `pick_first`, which outlier detection leaves alone;
    * with `peak_ewma`, of one slow server and two good ones or more, 99 of 100 calls took less than
      a third of what they took with round robin.

  `peak_ewma` has a `:penalty` of 240 ms, to suit such calls. Other policies have their default
  options. See `GrpcLb.Policy`.

  ## Options

    * `--scene` - the only scene to show
    * `--seconds` - how long the requests of a scene run, from 0 to 30, by default 10. Where all
      scenes are shown, only the first takes longer than 4. It takes longer where the requests do.
      With `--policy`, from 3 to 30.
    * `--policy` - the policy to show beside round robin
    * `--slow`, `--flaky` - how many of its five servers are slow, and how many are flaky, by
      default none
  """

  use Mix.Task

  alias Demo.CommandLine
  alias Demo.View.Style

  @requirements ["app.start"]

  @most_seconds 90

  @impl true
  def run(args) do
    scenes = CommandLine.parse!(args)
    # Servers fail on purpose, which the scenes show themselves.
    Logger.configure(level: :error)
    watchdog = spawn(&watch/0)
    # What fails is the demo's to tell.
    :ok = :logger.set_application_level(:grpc_lb, :none)

    try do
      case Demo.play(Style.detect(), scenes) do
        :ok -> :ok
        {:failed, what} -> Mix.raise(what)
      end
    after
      Process.exit(watchdog, :kill)
    end
  end

  # Whatever hangs, this does not wait for it. The servers end with the virtual machine.
  @spec watch() :: no_return()
  defp watch do
    Process.sleep(@most_seconds * 1000)
    IO.puts(:stderr, "The demo was not done within #{@most_seconds} s.")
    System.halt(1)
  end
end
