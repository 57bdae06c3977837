defmodule GrpcLb.Test.ScriptedAdapter do
  @moduledoc """
  An adapter of elixir-grpc whose connections are processes that do nothing, and whose requests are
  functions: each is given the channel and the options of `receive_data/2`, in the caller, and returns
  what that returns.

  Options:

    * `:test` - the process that is told of everything: `{:connecting, {host, port}}`, `{:connected,
      {host, port}, conn_pid}`, `{:disconnected, {host, port}}`, `{:sent, what, {host, port}, opts}`
    * `:refused` - an ETS table: `connect/2` fails as long as it has the port as a key
    * `:hold` - a process that is told `{:held, pid}`: `connect/2` does not return
    * `:process?` - `false` for connections without a process
  """

  @behaviour GRPC.Client.Adapter

  @impl true
  def connect(channel, opts) do
    test = Keyword.fetch!(opts, :test)
    send(test, {:connecting, address(channel)})

    if opts[:hold] do
      send(opts[:hold], {:held, self()})
      Process.sleep(:infinity)
    end

    if opts[:refused] && :ets.member(opts[:refused], channel.port) do
      {:error, :econnrefused}
    else
      pid = spawn(&connection/0)
      send(test, {:connected, address(channel), pid})
      payload = %{test: test, process: pid}
      payload = if opts[:process?] == false, do: payload, else: Map.put(payload, :conn_pid, pid)
      {:ok, %{channel | adapter_payload: payload}}
    end
  end

  @impl true
  def disconnect(channel) do
    Process.exit(channel.adapter_payload.process, :shutdown)
    send(channel.adapter_payload.test, {:disconnected, address(channel)})
    {:ok, channel}
  end

  @impl true
  def send_request(stream, fun, opts) do
    tell(stream, {:request, opts})
    %{stream | payload: %{answer: fun}}
  end

  @impl true
  def send_headers(stream, opts) do
    tell(stream, {:headers, opts})
    %{stream | payload: %{answer: nil}}
  end

  # The last message is the function.
  @impl true
  def send_data(stream, fun, opts) do
    tell(stream, {:data, opts})
    %{stream | payload: %{answer: fun}}
  end

  @impl true
  def end_stream(stream), do: tell(stream, :end_stream)

  @impl true
  def cancel(stream) do
    tell(stream, :cancel)
    :ok
  end

  @impl true
  def receive_data(stream, opts), do: stream.payload.answer.(stream.channel, opts)

  @doc "What requests of the connection exit with when its process is dead."
  def tell(stream, what) do
    %{test: test, process: pid} = stream.channel.adapter_payload
    {:ok, :alive} = call(pid)
    send(test, {:sent, what, address(stream.channel)})
    stream
  end

  defp call(pid) do
    monitor = Process.monitor(pid)
    send(pid, {:alive?, self(), monitor})

    receive do
      {^monitor, :alive} ->
        Process.demonitor(monitor, [:flush])
        {:ok, :alive}

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        exit({reason, {GenServer, :call, [pid, :alive?, 5_000]}})
    end
  end

  defp connection do
    receive do
      {:alive?, from, monitor} -> send(from, {monitor, :alive})
      # As a GenServer is stopped.
      {:system, _from, {:terminate, reason}} -> exit(reason)
    end

    connection()
  end

  defp address(channel), do: {channel.host, channel.port}
end
