defmodule GrpcLb.Bench.Contenders.ElixirGrpc do
  @moduledoc false
  # What elixir-grpc does for a call with the policy module of this library: it finds the state in
  # a persistent_term, as in `EtsCopy`, and has the module pick.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.{Backends, Channel}
  alias GrpcLb.ElixirGrpc.RoundRobin

  @impl true
  def setup(backends, opts) do
    ref = make_ref()
    channels = Backends.values(backends)
    {:ok, state} = RoundRobin.init(channels: init_channels(opts[:init], channels))
    {:ok, state} = RoundRobin.update(state, channels)
    :persistent_term.put({__MODULE__, ref}, state)
    ref
  end

  @impl true
  def teardown(ref) do
    GrpcLb.close(:persistent_term.get({__MODULE__, ref}).balancer)
    :persistent_term.erase({__MODULE__, ref})
  end

  @impl true
  def update(ref, backends) do
    state = :persistent_term.get({__MODULE__, ref})
    {:ok, _state} = RoundRobin.update(state, Backends.values(backends))
  end

  @impl true
  def pick(ref) do
    {:ok, channel, _state} = RoundRobin.pick(:persistent_term.get({__MODULE__, ref}))
    {:ok, channel}
  end

  defp init_channels(:same, channels), do: channels
  defp init_channels(:others, [%{ref: ref} | _]), do: [Channel.new(0, self(), ref)]
end
