defmodule GrpcLb.Namesakes do
  # The labels of balancers. Of those with an equal one the first has it alone, and the others have their
  # numbers behind it. What was told from another so is for as long as it lives, also when that has gone:
  # else it would go on with the other's series.
  @moduledoc false

  @table __MODULE__

  @doc "Makes the table of those, which belongs to the process that calls this, a supervisor."
  @spec open() :: :ignore
  def open do
    # A supervisor that starts its children again has it.
    if :ets.whereis(@table) == :undefined,
      do: :ets.new(@table, [:named_table, :public, read_concurrency: true])

    :ignore
  end

  @doc "A label for each, all different. In the order in which the balancers were made."
  @spec tell_apart([{label :: String.t(), number :: pos_integer()}]) :: [label :: String.t()]
  def tell_apart(balancers) do
    known = known()

    {labels, {numbered, _taken}} =
      Enum.map_reduce(balancers, {MapSet.new(), MapSet.new()}, fn {label, number} = balancer,
                                                                  {numbered, taken} ->
        if balancer in known or label in taken do
          label = numbered(label, number, taken)
          {label, {MapSet.put(numbered, balancer), MapSet.put(taken, label)}}
        else
          {label, {numbered, MapSet.put(taken, label)}}
        end
      end)

    note(known, numbered)
    labels
  end

  # Others may be named like that.
  defp numbered(label, number, taken) do
    label = "#{label} ##{number}"
    if label in taken, do: numbered(label, number, taken), else: label
  end

  # Where the application does not run there is no table.
  defp known do
    if :ets.whereis(@table) == :undefined,
      do: MapSet.new(),
      else: MapSet.new(:ets.tab2list(@table), fn {balancer} -> balancer end)
  end

  defp note(same, same), do: :ok

  defp note(known, numbered) do
    if :ets.whereis(@table) != :undefined do
      for balancer <- MapSet.difference(known, numbered), do: :ets.delete(@table, balancer)
      for balancer <- MapSet.difference(numbered, known), do: :ets.insert(@table, {balancer})
    end
  end
end
