defmodule Mix.Tasks.GrpcLb.Demo.Stage do
  @moduledoc false
  # How far the demo has come, as its callers see it. A caller enters the current stage before
  # each pick, so a pick counted under a stage started after that stage did; and once every
  # caller has entered a stage, no request picked before it is still on its way.

  # :rest               the callers stop: a barrier between runs
  # :steady, :settled   the list of backends does not change
  # :changing           a server is killed
  # :taken_out          the killed one has left the rotation
  # :joined             the two new ones have been reconciled in
  # :drained            another one has been reconciled out
  @names {:rest, :steady, :rest, :changing, :taken_out, :joined, :drained, :rest, :settled, :rest}

  @type t :: :atomics.atomics_ref()
  @type name :: :rest | :steady | :changing | :taken_out | :joined | :drained | :settled

  @spec new(pos_integer()) :: t()
  def new(callers), do: :atomics.new(1 + callers, [])

  @spec advance(t()) :: name()
  def advance(stage), do: elem(@names, :atomics.add_get(stage, 1, 1))

  @spec enter(t(), pos_integer()) :: name()
  def enter(stage, caller) do
    now = :atomics.get(stage, 1)
    :atomics.put(stage, 1 + caller, now)
    elem(@names, now)
  end

  @spec entered_by_all?(t()) :: boolean()
  def entered_by_all?(stage) do
    %{size: size} = :atomics.info(stage)
    now = :atomics.get(stage, 1)
    Enum.all?(2..size, &(:atomics.get(stage, &1) == now))
  end

  # `name` and the stages after it.
  @spec from(name()) :: [name()]
  def from(name), do: @names |> Tuple.to_list() |> Enum.drop_while(&(&1 != name))

  @spec between(name(), name()) :: [name()]
  def between(first, last), do: from(first) -- tl(from(last))
end
