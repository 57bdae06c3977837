defmodule GrpcLb.Connection.Log do
  @moduledoc false
  # What a connection logs: a warning when a backend or the resolution begins to fail, a notice when it is
  # well again, and nothing in between.
  #
  # Reasons are shown as far as they are the library's own or those that a module returned as
  # `{:error, reason}`. What it raised, threw, or exited with can have its arguments in it.

  alias GrpcLb.Connection.{Connectivity, Plan}
  alias GrpcLb.{Log, Text}

  @typedoc "Whose log it is."
  @type about :: %{name: term(), target: term()}

  @doc "Compares what was known of the backends with what is known now. `why` says why one has failed."
  @spec backends(about(), Connectivity.t(), Connectivity.t(), (Plan.id() -> reason :: term())) ::
          :ok
  def backends(about, before, known, why) do
    Enum.each(known, fn {id, state} ->
      case {Map.get(before, id), state} do
        {same, same} -> :ok
        {_before, :transient_failure} -> fails(about, "backend #{id}", %{backend: id}, why.(id))
        {:transient_failure, :ready} -> is_well(about, "backend #{id}", %{backend: id})
        _on_its_way -> :ok
      end
    end)
  end

  @doc "Compares the last resolution with the one before."
  @spec resolution(about(), before, before) :: :ok when before: :pending | :ok | {:error, term()}
  def resolution(_about, {:error, _before}, {:error, _again}), do: :ok

  def resolution(about, _before, {:error, reason}),
    do: fails(about, "the resolution of #{Text.show(about.target)}", %{}, reason)

  def resolution(about, {:error, _before}, :ok),
    do: is_well(about, "the resolution of #{Text.show(about.target)}", %{})

  def resolution(_about, _before, :ok), do: :ok

  defp fails(about, what, metadata, reason) do
    reason = plain(reason)
    metadata = Map.put(metadata, :reason, reason)
    log(:failing, about, "#{what} fails: #{Text.show(reason, 400)}", metadata)
  end

  defp is_well(about, what, metadata), do: log(:well, about, "#{what} is well again", metadata)

  defp log(kind, about, text, metadata) do
    text = "connection #{Text.show(about.name)}: #{text}"
    Log.log(kind, text, Map.merge(about, metadata), __MODULE__)
  end

  @doc """
  A reason without what can be secret in it.

      iex> GrpcLb.Connection.Log.plain({:raised, %KeyError{key: :tokn, term: [token: "hunter2"]}})
      {:raised, KeyError}
      iex> GrpcLb.Connection.Log.plain({:down, {:timeout, {GenServer, :call, [:server, "hunter2", 5_000]}}})
      {:down, {:timeout, {GenServer, :call, 3}}}
      iex> GrpcLb.Connection.Log.plain({:tls_alert, {:handshake_failure, ~c"no common cipher"}})
      {:tls_alert, {:handshake_failure, ~c"no common cipher"}}
  """
  @spec plain(reason :: term()) :: term()
  def plain({what, _term}) when what in [:thrown, :bad_return, :bad_resolution], do: what

  def plain({what, reason}) when what in [:raised, :check, :down, :watch],
    do: {what, plain(reason)}

  def plain({:exited, reason}), do: {:exited, plain(reason)}
  def plain({:shutdown, reason}), do: {:shutdown, plain(reason)}
  def plain(%exception{__exception__: true}), do: exception

  # As a process ends that made a call, or that crashed.
  def plain({reason, {module, function, arguments}})
      when is_atom(module) and is_atom(function) and is_list(arguments),
      do: {plain(reason), {module, function, length(arguments)}}

  def plain({reason, [{module, function, _arity, location} | _stacktrace]})
      when is_atom(module) and is_atom(function) and is_list(location),
      do: crash(reason)

  def plain(reason), do: reason

  # Erlang's errors have the term in them.
  defp crash(%exception{__exception__: true}), do: exception
  defp crash(reason) when is_tuple(reason), do: elem(reason, 0)
  defp crash(reason), do: reason
end
