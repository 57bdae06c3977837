defmodule GrpcLb.Dashboard.Looks do
  # Looks at balancers for those who ask, one at a time: however many tabs are open, and whatever asks, one
  # scheduler is busy at most. A look that is young enough serves all who ask for the same.
  @moduledoc false

  use GenServer

  alias GrpcLb.Dashboard.Json
  alias GrpcLb.Look.Sample

  @young_ms 500
  # As long as the page waits for an answer.
  @wait_ms 5_000

  @type what :: :list | {:balancer, number :: pos_integer()}

  @doc "Starts it, linked. `look` is what it looks with, and a look is young for so many milliseconds."
  @spec start_link((what() -> {:ok, Json.value()} | :error), pos_integer()) ::
          GenServer.on_start()
  def start_link(look \\ &look/1, young_ms \\ @young_ms),
    do: GenServer.start_link(__MODULE__, {look, young_ms})

  @doc """
  What there is to see, as JSON.

    * `:error` - there is no such balancer
    * `:busy` - others were asked for that long, or the look failed
  """
  @spec at(pid(), what()) :: {:ok, json :: binary()} | :error | :busy
  def at(looks, what) do
    GenServer.call(looks, {:at, what, now() + @wait_ms}, @wait_ms)
  catch
    :exit, {:timeout, _call} -> :busy
  end

  @impl true
  def init({look, young_ms}), do: {:ok, %{look: look, young_ms: young_ms, young: %{}}}

  @impl true
  def handle_call({:at, what, given_up}, _from, %{young: young} = state) do
    now = now()
    young = Map.filter(young, fn {_what, {until, _seen}} -> until > now end)

    case young do
      %{^what => {_until, seen}} ->
        {:reply, seen, %{state | young: young}}

      # Nobody waits for it any more.
      _old when given_up <= now ->
        {:noreply, %{state | young: young}}

      _old ->
        seen = see(state.look, what)
        {:reply, seen, %{state | young: Map.put(young, what, {now() + state.young_ms, seen})}}
    end
  end

  # In a process of its own, whose garbage goes with it.
  defp see(look, what) do
    {_pid, monitor} =
      spawn_monitor(fn ->
        exit({:seen, with({:ok, value} <- look.(what), do: {:ok, binary(value)})})
      end)

    receive do
      {:DOWN, ^monitor, :process, _pid, {:seen, seen}} -> seen
      {:DOWN, ^monitor, :process, _pid, _reason} -> :busy
    end
  end

  defp binary(value), do: value |> Json.encode() |> IO.iodata_to_binary()

  defp look(:list), do: {:ok, %{node: Atom.to_string(node()), balancers: Sample.list()}}
  defp look({:balancer, number}), do: Sample.take(number)

  defp now, do: System.monotonic_time(:millisecond)
end
