defmodule GrpcLb.Attack.Rogue do
  @moduledoc """
  Code of users that misbehaves, as whatever it is asked to be: a transport, a resolver, a member of a pool, a
  function that is run. It is polite often enough that what is behind it is reached.
  """

  alias GrpcLb.Attack.{Hostile, Stash}

  # A transport.

  def open(_address, _opts) do
    act(fn ->
      Enum.random([{:ok, value()}, {:ok, value()}, {:ok, value(), owner()}, {:error, :refused}])
    end)
  end

  def check(_value),
    do: act(fn -> Enum.random([:ok, :ok, {:unhealthy, :busy}, {:error, :gone}]) end)

  def close(_value, _drain_timeout), do: act(fn -> :ok end)

  # A resolver.

  def resolve(_target, _opts), do: act(&resolution/0)

  def resolve(target, opts, push) do
    pushing(push)
    resolve(target, opts)
  end

  def watch(_target, _opts, push) do
    act(fn -> {:ok, spawn_link(fn -> push_now_and_then(push) end)} end)
  end

  defp pushing(push) do
    if :rand.uniform(3) == 1 do
      seed = :rand.uniform(1_000_000)
      spawn(fn -> seeded(seed, fn -> push.(Enum.random([resolution(), Hostile.term()])) end) end)
    end
  end

  # Ends with the connection, to which it is linked.
  defp push_now_and_then(push) do
    Process.sleep(:rand.uniform(50))
    push.(if :rand.uniform(5) == 1, do: Hostile.term(), else: resolution())
    if :rand.uniform(20) > 1, do: push_now_and_then(push)
  end

  defp resolution do
    case :rand.uniform(8) do
      1 ->
        {:error, :nxdomain}

      2 ->
        {:ok, %{addresses: [], ttl: 0}}

      3 ->
        {:ok, %{addresses: Hostile.term(), ttl: Hostile.term()}}

      _ ->
        {:ok,
         %{addresses: addresses(), ttl: Enum.random([nil, 0, 1, :infinity]), unknown: unknown()}}
    end
  end

  @doc "Some addresses of few, so that those of one answer are in the next."
  def addresses do
    for n <- 1..:rand.uniform(6) do
      GrpcLb.Address.new!({Enum.random(["10.0.0.#{n}", "::#{n}"]), Enum.random([443, 50_051])},
        weight: :rand.uniform(3),
        host: Enum.random([nil, "a.example", "b.example"])
      )
    end
    |> Enum.uniq_by(&GrpcLb.Address.id/1)
  end

  defp unknown, do: Enum.random([[], [], [%{host: "a.example"}], [%{family: :inet6}], [%{}]])

  defp value, do: Enum.random([:transport, self(), {:value, self()}, :rand.bytes(70)])
  defp owner, do: Enum.random([self(), Stash.get(:pid, &self/0)])

  @doc "A process that is a member of pools, and answers some calls."
  def member do
    spawn(fn -> seeded(:rand.uniform(1_000_000), &answer/0) end)
  end

  defp answer do
    receive do
      {:"$gen_call", from, _request} ->
        case :rand.uniform(10) do
          1 -> exit(:shutdown)
          2 -> :silence
          3 -> GenServer.reply(from, Hostile.term())
          _ -> GenServer.reply(from, :ok)
        end

        answer()

      _other ->
        answer()
    after
      # As long as nobody asks, and no longer.
      2_000 -> :ok
    end
  end

  @doc "What a caller runs with the value of a backend."
  def run do
    case :rand.uniform(8) do
      1 -> fn _ -> raise "rogue" end
      2 -> fn _ -> throw(:rogue) end
      3 -> fn _ -> exit(:rogue) end
      4 -> fn _ -> Process.exit(self(), :kill) end
      5 -> fn _ -> Process.sleep(:rand.uniform(30)) end
      6 -> fn _ -> {:error, {:transport, :lost}} end
      _ -> fn value -> {:ok, value} end
    end
  end

  @doc "What a caller has told of how a call went."
  def outcome do
    case :rand.uniform(4) do
      1 -> fn _ -> raise "rogue" end
      _ -> fn _ -> Enum.random([:ok, {:error, :x}, :cancelled, Hostile.term()]) end
    end
  end

  # Well for most of the time.
  defp act(politely) do
    seed()

    case :rand.uniform(24) do
      1 -> raise "rogue"
      2 -> exit(Enum.random([:rogue, :normal, :shutdown, :kill]))
      3 -> throw(:rogue)
      4 -> Hostile.term()
      5 -> Process.sleep(:rand.uniform(300)) && politely.()
      6 -> Process.exit(self(), Enum.random([:kill, :shutdown]))
      7 -> exit_of_a_caller()
      8 -> for(_ <- 1..:rand.uniform(50), do: send(self(), Hostile.term())) && politely.()
      _ -> politely.()
    end
  end

  # The processes that have started this one, which the code of users can find, too.
  defp exit_of_a_caller do
    case Process.get(:"$ancestors") do
      [pid | _] when is_pid(pid) -> Process.exit(pid, Enum.random([:kill, :shutdown, :rogue]))
      _none -> :ok
    end
  end

  # Random, for it runs in processes of the library, each with a sequence of its own.
  defp seed, do: Process.get(:rand_seed) || :rand.seed(:exsss)

  defp seeded(seed, fun) do
    :rand.seed(:exsss, seed)
    fun.()
  end
end
