defmodule Demo.Callers do
  @moduledoc false
  # The processes that make the requests: each gets a client, asks it, checks the answer, and
  # starts over until it enters the stage `:rest`. They share what they pick from, nothing else.

  alias Demo.Callers.{Client, Stage, Tally}

  @enforce_keys [:number, :call, :stage, :failed]
  defstruct @enforce_keys

  @type pick :: (() -> {:ok, client :: pid()} | {:error, atom()})
  @type call :: (payload :: binary() -> {client :: pid() | nil, Tally.outcome()})
  @type t :: %__MODULE__{
          number: pos_integer(),
          call: call(),
          stage: Stage.t(),
          failed: :counters.counters_ref()
        }

  # Those that pick, and ask whom they got.
  @spec new(pos_integer(), pick(), [Stage.name()]) :: t()
  def new(number, pick, stages), do: calling(number, &request(pick, &1), stages)

  # Those that make a call in their own way.
  @spec calling(pos_integer(), call(), [Stage.name()]) :: t()
  def calling(number, call, stages) do
    %__MODULE__{
      number: number,
      call: call,
      stage: Stage.new(stages, number),
      failed: :counters.new(1, [])
    }
  end

  # From the stage `name`, the next, until `script` returns: by then every caller has finished its
  # last request. Returns what they counted, and what the script returned.
  @spec during(t(), Stage.name(), (() -> result)) :: {Tally.t(), result} when result: term()
  def during(callers, name, script) do
    ^name = Stage.advance(callers.stage)

    tasks =
      for caller <- 1..callers.number do
        Task.async(fn -> loop(callers, caller, %Tally{}) end)
      end

    result = script.()
    :rest = Stage.advance(callers.stage)
    {tasks |> Task.await_many(:infinity) |> Tally.merge(), result}
  end

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
        {client, outcome} = callers.call.(<<caller::16, tally.sent::48>>)
        took = System.monotonic_time(:microsecond) - started
        if outcome != :answered, do: :counters.add(callers.failed, 1, 1)
        loop(callers, caller, Tally.outcome(tally, stage, client, outcome, took))
    end
  end

  defp request(pick, payload) do
    case pick.() do
      {:ok, client} -> {client, outcome(Client.request(client, payload), payload)}
      {:error, reason} -> {nil, {:failed, reason}}
    end
  end

  # A call that a balancer counts: `run` is its `run/3`, but for the first argument.
  @spec counted(((pid() -> result), keyword() -> result | {:error, atom()}), binary()) :: result
        when result: {pid() | nil, Tally.outcome()}
  def counted(run, payload) do
    request = &{&1, &1 |> Client.request(payload) |> outcome(payload)}

    case run.(request, outcome: &counted_as/1) do
      {:error, reason} -> {nil, {:failed, reason}}
      made -> made
    end
  end

  defp counted_as({_client, :answered}), do: :ok
  defp counted_as({_client, {:failed, reason}}), do: {:error, reason}

  # The server answers with the payload's checksum, so an answer given to the wrong caller shows.
  @spec outcome({:ok, binary()} | {:error, atom()}, binary()) :: Tally.outcome()
  def outcome({:ok, <<crc::32>>}, payload) do
    if crc == :erlang.crc32(payload), do: :answered, else: {:failed, :wrong_answer}
  end

  def outcome({:error, reason}, _payload), do: {:failed, reason}
end
