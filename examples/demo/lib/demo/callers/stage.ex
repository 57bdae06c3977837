defmodule Demo.Callers.Stage do
  @moduledoc false
  # How far a scene has come, as its callers see it. A caller enters the current stage before
  # each pick, so a pick counted under a stage started after that stage did; and once every
  # caller has entered a stage, no request picked before it is still on its way.
  #
  # In the stage `:rest` the callers stop: a barrier between runs. Every scene begins with it.

  @enforce_keys [:names, :entered]
  defstruct @enforce_keys

  @type name :: atom()
  @type t :: %__MODULE__{names: tuple(), entered: :atomics.atomics_ref()}

  @spec new([name()], pos_integer()) :: t()
  def new([:rest | _later] = names, callers) do
    %__MODULE__{names: List.to_tuple(names), entered: :atomics.new(1 + callers, [])}
  end

  @spec advance(t()) :: name()
  def advance(stage), do: elem(stage.names, :atomics.add_get(stage.entered, 1, 1))

  @spec enter(t(), pos_integer()) :: name()
  def enter(stage, caller) do
    now = :atomics.get(stage.entered, 1)
    :atomics.put(stage.entered, 1 + caller, now)
    elem(stage.names, now)
  end

  @spec entered_by_all?(t()) :: boolean()
  def entered_by_all?(stage) do
    %{size: size} = :atomics.info(stage.entered)
    now = :atomics.get(stage.entered, 1)
    Enum.all?(2..size, &(:atomics.get(stage.entered, &1) == now))
  end

  # `name` and the stages after it.
  @spec from([name()], name()) :: [name()]
  def from(names, name), do: Enum.drop_while(names, &(&1 != name))

  @spec between([name()], name(), name()) :: [name()]
  def between(names, first, last), do: from(names, first) -- tl(from(names, last))
end
