defmodule GrpcLb.Resolver.DNS.Lookup do
  # The addresses of hosts. All A and AAAA records are asked for together, and none has to wait for the
  # others for long: once what there is can be used, and no further answer has come for as long as RFC
  # 8305, section 3, would wait for AAAA, it is, and what comes later is got later.
  @moduledoc false

  alias GrpcLb.Resolver.DNS.{Answer, Query}

  @grace_ms 50
  @at_once 32

  @enforce_keys [:query, :types, :waiting]
  defstruct [:query, :types, :waiting, answers: %{}, asked: %{}, usable?: false]

  @opaque t :: %__MODULE__{}

  @doc "Asks for the addresses of these hosts. Returns when all answers are there, or what is `usable?`."
  @spec first(Query.t(), [:a | :aaaa], [String.t()], usable? :: (t() -> boolean())) :: t()
  def first(query, types, hosts, usable?) do
    # By type: where the questions of one type get no answer, those of the other do not wait for that.
    questions = for type <- types, host <- Enum.uniq(hosts), do: {host, type}
    collect(%__MODULE__{query: query, types: types, waiting: questions}, usable?)
  end

  @doc "Waits for all that is pending. For the process that has called `first/4`."
  @spec rest(t()) :: t()
  def rest(lookup), do: collect(%{lookup | usable?: false}, fn _lookup -> false end)

  @doc "Whether something is pending."
  @spec pending?(t()) :: boolean()
  def pending?(lookup), do: lookup.asked != %{}

  @doc "The answers for a host, by family."
  @spec answers(t(), String.t()) :: [{:inet | :inet6, Answer.t(:inet.ip_address())}]
  def answers(lookup, host),
    do:
      for(
        type <- lookup.types,
        do: {family(type), Map.get(lookup.answers, {host, type}, :pending)}
      )

  defp family(:a), do: :inet
  defp family(:aaaa), do: :inet6

  defp collect(%{waiting: [question | waiting], asked: asked} = lookup, usable?)
       when map_size(asked) < @at_once do
    {host, type} = question
    task = Task.async(Query, :records, [lookup.query, host, type])
    collect(%{lookup | waiting: waiting, asked: Map.put(asked, task.ref, question)}, usable?)
  end

  defp collect(%{asked: asked} = lookup, _usable?) when asked == %{}, do: lookup

  defp collect(%{asked: asked} = lookup, usable?) do
    receive do
      {ref, answer} when is_map_key(asked, ref) ->
        Process.demonitor(ref, [:flush])
        {question, asked} = Map.pop!(asked, ref)
        lookup = %{lookup | asked: asked, answers: Map.put(lookup.answers, question, answer)}
        # Once it is, more answers do not change that.
        collect(%{lookup | usable?: lookup.usable? or usable?.(lookup)}, usable?)
    after
      if(lookup.usable?, do: @grace_ms, else: :infinity) -> lookup
    end
  end
end
