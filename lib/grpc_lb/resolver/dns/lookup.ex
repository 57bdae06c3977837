defmodule GrpcLb.Resolver.DNS.Lookup do
  # The addresses of hosts. A and AAAA are asked for at the same time, and neither has to wait for the
  # other for long: once one has brought addresses the other has the grace of RFC 8305, section 3, both
  # ways round here, and what comes later is got later.
  @moduledoc false

  alias GrpcLb.Resolver.DNS.{Answer, Query}

  @grace_ms 50
  @hosts_at_once 16

  @enforce_keys [:query, :types, :waiting]
  defstruct [:query, :types, :waiting, answers: %{}, asked: %{}, settled: MapSet.new()]

  @opaque t :: %__MODULE__{}

  @doc """
  Asks for the addresses of these hosts. Returns when of each host all answers are there, or some
  addresses and the grace is over.
  """
  @spec first(Query.t(), [:a | :aaaa], [String.t()]) :: t()
  def first(query, types, hosts) do
    collect(%__MODULE__{query: query, types: types, waiting: Enum.uniq(hosts)}, &settled?/1)
  end

  @doc "Waits for all that is pending. For the process that has called `first/3`."
  @spec rest(t()) :: t()
  def rest(lookup), do: collect(lookup, &(&1.asked == %{}))

  @doc "Whether something is pending."
  @spec pending?(t()) :: boolean()
  def pending?(lookup), do: lookup.asked != %{}

  @doc "The answers for a host, by family."
  @spec answers(t(), String.t()) :: [{:inet | :inet6, Answer.t(:inet.ip_address())}]
  def answers(lookup, host),
    do: for(type <- lookup.types, do: {family(type), lookup.answers[{host, type}]})

  defp family(:a), do: :inet
  defp family(:aaaa), do: :inet6

  defp collect(lookup, done?) do
    lookup = ask_more(lookup)
    if done?.(lookup), do: lookup, else: lookup |> next_message() |> collect(done?)
  end

  defp settled?(%{waiting: waiting} = lookup), do: waiting == [] and unsettled(lookup) == 0

  # Of those that have been asked for.
  defp unsettled(lookup),
    do: div(map_size(lookup.answers), length(lookup.types)) - MapSet.size(lookup.settled)

  # A host whose answers may come late does not hold up the next ones.
  defp ask_more(%{waiting: [host | waiting]} = lookup) do
    if unsettled(lookup) < @hosts_at_once,
      do: ask_more(ask(%{lookup | waiting: waiting}, host)),
      else: lookup
  end

  defp ask_more(lookup), do: lookup

  defp ask(lookup, host) do
    for type <- lookup.types, reduce: lookup do
      lookup ->
        task = Task.async(Query, :records, [lookup.query, host, type])
        answers = Map.put(lookup.answers, {host, type}, :pending)
        %{lookup | answers: answers, asked: Map.put(lookup.asked, task.ref, {host, type})}
    end
  end

  defp next_message(%{asked: asked} = lookup) do
    receive do
      {ref, answer} when is_map_key(asked, ref) ->
        Process.demonitor(ref, [:flush])
        {{host, _type} = question, asked} = Map.pop!(asked, ref)
        answers = %{lookup.answers | question => answer}
        settle(%{lookup | asked: asked, answers: answers}, host, answer)

      {__MODULE__, :grace_is_over, host} ->
        settled(lookup, host)
    end
  end

  defp settle(lookup, host, answer) do
    cond do
      :pending not in Keyword.values(answers(lookup, host)) ->
        settled(lookup, host)

      match?({:ok, _ips, _ttl}, answer) ->
        Process.send_after(self(), {__MODULE__, :grace_is_over, host}, @grace_ms)
        lookup

      true ->
        lookup
    end
  end

  defp settled(lookup, host), do: %{lookup | settled: MapSet.put(lookup.settled, host)}
end
