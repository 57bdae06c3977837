defmodule GrpcLb.ElixirGrpc.GunEvents do
  @moduledoc false
  # An event handler of Gun (`gun_event`) that tells a process who Gun is, and when the connection is
  # lost. elixir-grpc's adapter for Gun tells nobody. The handler that the user may have goes on to see
  # all events.

  @doc """
  Options of Gun whose handler sends `{:gun_started, mark, pid}` and `{:gun_disconnected, mark}` to the
  calling process.
  """
  @spec put(keyword(), mark :: reference()) :: keyword()
  def put(opts, mark) do
    Keyword.put(opts, :event_handler, {__MODULE__, {self(), mark, opts[:event_handler]}})
  end

  @doc false
  def init(event, {pid, mark, users}) do
    send(pid, {:gun_started, mark, self()})

    case users do
      nil -> {pid, mark, nil}
      {module, state} -> {pid, mark, {module, module.init(event, state)}}
    end
  end

  @doc false
  def disconnect(event, {pid, mark, _users} = state) do
    send(pid, {:gun_disconnected, mark})
    pass_on(:disconnect, event, state)
  end

  # Gun has some thirty events, and more with every version.
  @doc false
  def unquote(:"$handle_undefined_function")(name, [event, state]),
    do: pass_on(name, event, state)

  defp pass_on(_name, _event, {_pid, _mark, nil} = state), do: state

  defp pass_on(name, event, {pid, mark, {module, state}}) do
    {pid, mark, {module, apply(module, name, [event, state])}}
  end
end
