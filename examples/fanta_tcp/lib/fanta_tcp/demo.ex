defmodule FantaTCP.Demo do
  @moduledoc """
  What a routing pool does, step by step, over real sockets. Each step checks what it shows.
  """

  alias FantaTCP.Server
  alias GrpcLb.Pool

  @pool FantaTCP.Demo.Pool
  @random FantaTCP.Demo.Random
  @size 5
  @callers 20
  @requests 1_000
  @retry_ms 10..200
  @await_ms 30_000

  # Longer than the demo takes.
  @long_ms 60_000

  @doc "Runs the demo. Raises when something is not as it must be. Expects `policy` to rotate."
  @spec run(GrpcLb.Policy.t()) :: :ok
  def run(policy \\ :round_robin) do
    {:ok, supervisor} = Supervisor.start_link([], strategy: :one_for_one)

    try do
      steps(supervisor, policy)
    after
      Supervisor.stop(supervisor)
    end

    say("\nAll of this was as it must be.")
  end

  # In an application the pool would be in a list of children from the beginning.
  defp steps(supervisor, policy) do
    {server, port} = start_server(supervisor, 0)
    say("A FantaTCP server listens on port #{port}.")

    options = [port: port, size: @size, retry_ms: @retry_ms]
    {:ok, _pool} = start(supervisor, {FantaTCP, [name: @pool, policy: policy] ++ options})

    round_robin()
    overtaking()
    hanging_up(server)
    server_down(supervisor, server, port)
    client_killed()

    {:ok, _random} = start(supervisor, {FantaTCP, [name: @random, policy: :random] ++ options})
    random()

    stopped(supervisor)
  end

  defp start_server(supervisor, port) do
    {:ok, server} = start(supervisor, Supervisor.child_spec({Server, port}, restart: :temporary))
    {server, Server.port(server)}
  end

  defp start(supervisor, child), do: Supervisor.start_child(supervisor, child)

  defp round_robin do
    title("#{@callers} callers share #{@size} connections, round robin")
    check(await() == :ok, "#{@size} clients joined once the server had greeted them")

    answers = requests(@pool)
    check(all_answered?(answers), "#{@requests} requests were answered")

    by_connection = by_connection(answers)
    say("        answered by connection: #{inspect(by_connection)}")

    check(
      Enum.map(by_connection, &elem(&1, 1)) == List.duplicate(div(@requests, @size), @size),
      "each connection had its exact share, whoever called"
    )
  end

  defp overtaking do
    title("Requests overtake each other on one connection")
    {:ok, client} = Pool.pick(@pool)
    slow = ask_slowly(client)
    {:ok, {_connection, text}} = ask(client, "fast", 0)
    check(text == "FAST", "a short request is answered")
    check(Task.yield(slow, 0) == nil, "the long one before it, by the same client, still waits")
    Task.shutdown(slow)
  end

  # To one client, not to whichever the pool picks.
  defp ask(client, text, wait_ms) do
    GenServer.call(client, {:request, text, wait_ms}, 2 * @long_ms)
  end

  # Returns when the request is on its way. Of that no message tells, but the client's state does.
  defp ask_slowly(client) do
    task = Task.async(fn -> ask(client, "slow", @long_ms) end)
    await_sent(client, task.pid)
    task
  end

  defp await_sent(client, caller) do
    callers = for {_id, {pid, _tag}} <- :sys.get_state(client).waiting, do: pid
    unless caller in callers, do: await_sent(client, caller)
  end

  defp hanging_up(server) do
    title("The server hangs up on everybody")
    clients = clients()
    asked = Enum.map(clients, &ask_slowly/1)
    :ok = Server.hang_up(server)
    outcomes = Task.await_many(asked, @await_ms)

    check(
      Enum.all?(outcomes, &(&1 == {:error, :disconnected})),
      "#{@size} requests in flight failed at once, none waits until its time is out"
    )

    check(await() == :ok, "the clients connected again and joined again")
    check(clients() == clients, "they are the same processes as before")
    check(all_answered?(requests(@pool)), "#{@requests} more requests were answered")
  end

  defp server_down(supervisor, server, port) do
    title("The server goes down")
    :ok = Server.stop(server)

    check(
      ask_until_empty() == {:error, :no_backends},
      "callers are told so: no members, no waiting"
    )

    {_server, ^port} = start_server(supervisor, port)
    check(await() == :ok, "it is up again, and all #{@size} clients are back")
    check(all_answered?(requests(@pool)), "#{@requests} more requests were answered")
  end

  defp client_killed do
    title("A client is killed")
    {:ok, victim} = Pool.pick(@pool)
    monitor = Process.monitor(victim)
    Process.exit(victim, :kill)

    receive do
      {:DOWN, ^monitor, :process, ^victim, :killed} -> :ok
    end

    check(
      all_answered?(requests(@pool)),
      "it was not picked again: #{@requests} answers, no error"
    )

    check(await() == :ok, "its supervisor started another, which joined")
    check(victim not in clients(), "the others did not notice")
  end

  defp random do
    title("The same with the policy :random")
    check(await(@random) == :ok, "#{@size} clients joined")
    answers = requests(@random)
    check(all_answered?(answers), "#{@requests} requests were answered")
    by_connection = by_connection(answers)
    say("        answered by connection: #{inspect(by_connection)}")
    check(length(by_connection) == @size, "each connection had about its share")
  end

  defp stopped(supervisor) do
    title("The first pool is stopped")
    :ok = Supervisor.terminate_child(supervisor, {Pool, @pool})
    check(FantaTCP.request(@pool, "late") == {:error, :not_running}, "callers are told so")
  end

  defp clients do
    {:ok, members} = Pool.members(@pool)
    members |> Enum.map(& &1.pid) |> Enum.sort()
  end

  defp await(pool \\ @pool), do: Pool.await_members(pool, @size, @await_ms)

  # Each caller asks, waits for the answer, and asks again.
  defp requests(pool) do
    callers =
      for caller <- 1..@callers do
        Task.async(fn ->
          for number <- 1..div(@requests, @callers) do
            request(pool, "request #{number} of caller #{caller}")
          end
        end)
      end

    callers |> Task.await_many(@await_ms) |> List.flatten()
  end

  # An answer that went to the wrong caller would show.
  defp request(pool, text) do
    with {:ok, {_connection, answer}} = ok <- FantaTCP.request(pool, text) do
      if answer == String.upcase(text), do: ok, else: {:error, {:wrong_answer, answer}}
    end
  end

  defp all_answered?(answers), do: Enum.all?(answers, &match?({:ok, _answer}, &1))

  defp by_connection(answers) do
    frequencies = Enum.frequencies(for {:ok, {connection, _text}} <- answers, do: connection)
    Enum.sort(frequencies)
  end

  # The clients notice one after the other.
  defp ask_until_empty do
    case FantaTCP.request(@pool, "anybody?") do
      {:error, :disconnected} -> ask_until_empty()
      other -> other
    end
  end

  defp title(text), do: say("\n#{text}")

  defp check(true, text), do: say("  ok    #{text}")
  defp check(false, text), do: raise("this is not so: #{text}")

  defp say(text), do: IO.puts(text)
end
