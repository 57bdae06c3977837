defmodule GrpcLb.Bench.Parts.Core do
  @moduledoc false
  # The core alone, in Rust, beside peers in Rust: what `bench/peers` has left in
  # `bench/results/peers.json`, rows of a name, backends, threads, a median in nanoseconds and the
  # spread from the first quartile to the third.

  @behaviour GrpcLb.Bench.Part

  alias GrpcLb.Bench.{Backends, Budget, Json}

  @file_name "bench/results/peers.json"
  @own "grpc_lb_core, "

  # By one thread.
  @most_ns 15.0
  @against_peer 0.1
  @pairs [
    {"grpc_lb_core, round_robin", "pingora, round robin"},
    {"grpc_lb_core, random", "pingora, random"}
  ]

  def file_name, do: @file_name

  @impl true
  def measure(_plan) do
    case File.read(@file_name) do
      {:ok, text} ->
        rows = text |> Json.decode() |> Enum.map(&described/1)
        {rows, budgets(rows)}

      {:error, _none} ->
        {[], []}
    end
  end

  @impl true
  def tables(rows) do
    for {threads, rows} <- rows |> Enum.group_by(& &1.threads) |> Enum.sort() do
      sizes = rows |> Enum.map(& &1.backends) |> Enum.uniq() |> Enum.sort()
      callers = Backends.count(threads, "thread", "threads")

      {"the core alone, in Rust, ns a pick by number of backends, #{callers}",
       ["" | Enum.map(sizes, &to_string/1)],
       for title <- rows |> Enum.map(& &1.title) |> Enum.uniq() do
         [title | for(size <- sizes, do: median(find(rows, title, size, threads)))]
       end}
    end
  end

  defp described(%{name: name} = row) do
    row
    |> Map.delete(:name)
    |> Map.merge(%{
      title: name,
      side: if(String.starts_with?(name, @own), do: "ours", else: "peer"),
      job: job(name)
    })
  end

  # What can be compared.
  defp job(name) do
    cond do
      String.ends_with?(name, "a call") -> "a call"
      name =~ ~r/ring_hash|ketama/ -> "a pick by key"
      true -> "a pick"
    end
  end

  defp budgets(rows) do
    for {own_title, peer_title} <- @pairs,
        %{title: ^own_title, threads: 1} = own <- rows,
        peer = find(rows, peer_title, own.backends, 1),
        what = "core, #{Backends.count(own.backends)}: #{own_title}",
        row <- [
          Budget.judge_once(%Budget{what: what, limit: @most_ns, unit: "ns"}, own.ns_median),
          Budget.judge_once(
            %Budget{what: "#{what} / #{peer_title}", limit: @against_peer},
            own.ns_median / peer.ns_median
          )
        ] do
      row
    end
  end

  defp find(rows, title, backends, threads) do
    Enum.find(rows, &(&1.title == title and &1.backends == backends and &1.threads == threads))
  end

  defp median(nil), do: nil
  defp median(row), do: row.ns_median / 1
end
