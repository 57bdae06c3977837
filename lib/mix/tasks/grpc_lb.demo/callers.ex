defmodule Mix.Tasks.GrpcLb.Demo.Callers do
  @moduledoc false
  # The processes that make the requests: each picks a connection, asks it, checks the answer,
  # and starts over until it enters the stage `:rest`. They share the balancer and nothing else.

  alias Mix.Tasks.GrpcLb.Demo.{Connection, Stage, Tally}

  @enforce_keys [:number, :balancer, :stage, :failed]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          number: pos_integer(),
          balancer: reference(),
          stage: Stage.t(),
          failed: :counters.counters_ref()
        }

  @spec new(pos_integer(), reference()) :: t()
  def new(number, balancer) do
    %__MODULE__{
      number: number,
      balancer: balancer,
      stage: Stage.new(number),
      failed: :counters.new(1, [])
    }
  end

  @spec start(t()) :: [Task.t()]
  def start(callers) do
    for caller <- 1..callers.number do
      Task.async(fn -> loop(callers, caller, %Tally{}) end)
    end
  end

  @spec await([Task.t()]) :: Tally.t()
  def await(tasks), do: tasks |> Task.await_many(:infinity) |> Tally.merge()

  # So far, for the live view: the callers' own tallies come when they rest.
  @spec failed(t()) :: non_neg_integer()
  def failed(callers), do: :counters.get(callers.failed, 1)

  defp loop(callers, caller, tally) do
    case Stage.enter(callers.stage, caller) do
      :rest ->
        tally

      stage ->
        tally = Tally.sent(tally)
        started = System.monotonic_time(:microsecond)
        {connection, outcome} = request(callers.balancer, <<caller::16, tally.sent::48>>)
        took = System.monotonic_time(:microsecond) - started
        if outcome != :answered, do: :counters.add(callers.failed, 1, 1)
        loop(callers, caller, Tally.outcome(tally, stage, connection, outcome, took))
    end
  end

  defp request(balancer, payload) do
    case GrpcLb.pick(balancer) do
      {:ok, connection} -> {connection, outcome(Connection.request(connection, payload), payload)}
      {:error, reason} -> {nil, {:failed, reason}}
    end
  end

  # The server answers with the payload's checksum, so an answer given to the wrong caller shows.
  @spec outcome({:ok, binary()} | {:error, atom()}, binary()) :: Tally.outcome()
  def outcome({:ok, <<crc::32>>}, payload) do
    if crc == :erlang.crc32(payload), do: :answered, else: {:failed, :wrong_answer}
  end

  def outcome({:error, reason}, _payload), do: {:failed, reason}
end
