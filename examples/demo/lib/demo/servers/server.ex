defmodule Demo.Servers.Server do
  @moduledoc false
  # One backend: a TCP server in an operating-system process of its own. It calls Erlang's modules
  # only, so a plain `erl` starts it, without Elixir on its code path.
  #
  # A frame is four bytes of length and then
  #
  #     request  <<?R, id::64, payload>>      answer  <<id::64, count::64, CRC-32 of payload::32>>
  #     request  <<?C, id::64>>               answer  <<id::64, count::64>>
  #
  # where `count` is how many ?R requests this connection has answered, this one included.
  # One request in @hold_every is held back, so that later ones overtake it.
  #
  # A frame <<?G>> tells a client to send no more requests. Those that it sends all the same are answered,
  # until it closes the connection.
  #
  # A server that is told how long its work takes serves as `Work` says instead.

  alias Demo.Servers.Work

  @hold_every 64
  @hold_ms 2

  # With the command line's words as `erl -run` hands them over: the TCP port, 0 for any that is
  # free, and what `Work.serve/3` takes. Writes its port to stdout, then serves until stdin has a
  # word for it: with `leave` it lets its clients go first, as long as that takes. The end of stdin is the end of the parent, however that died; so is a stdout that
  # nobody reads, which ends the port.
  @spec start([charlist()]) :: no_return()
  def start([number]), do: run(number, &serve/1)

  def start([number, work_ms, failing_percent]) do
    work_ms = :erlang.list_to_integer(work_ms)
    failing_percent = :erlang.list_to_integer(failing_percent)
    run(number, &Work.serve(&1, work_ms, failing_percent))
  end

  @spec run(charlist(), (:gen_tcp.socket() -> term())) :: no_return()
  defp run(number, serve) do
    :erlang.process_flag(:trap_exit, true)
    parent = :erlang.open_port({:fd, 0, 1}, [:binary, :eof])

    {:ok, listener} =
      :gen_tcp.listen(:erlang.list_to_integer(number), [
        :binary,
        packet: 4,
        active: false,
        nodelay: true,
        reuseaddr: true,
        ip: {127, 0, 0, 1}
      ])

    {:ok, number} = :inet.port(listener)
    :erlang.port_command(parent, [:erlang.integer_to_binary(number), ?\n])
    accept(listener, serve)
    loop(parent, listener, serve, [])
  end

  # A session accepts its own client, so it owns the socket from the beginning.
  defp accept(listener, serve) do
    server = :erlang.self()

    :erlang.spawn_monitor(fn ->
      case :gen_tcp.accept(listener) do
        {:ok, socket} ->
          :erlang.send(server, {:accepted, :erlang.self()})
          serve.(socket)

        {:error, :closed} ->
          :ok
      end
    end)
  end

  @spec loop(port(), :gen_tcp.socket(), (:gen_tcp.socket() -> term()), [pid()]) :: no_return()
  defp loop(parent, listener, serve, sessions) do
    receive do
      {:accepted, pid} ->
        accept(listener, serve)
        loop(parent, listener, serve, [pid | sessions])

      {:DOWN, _monitor, :process, pid, :normal} ->
        loop(parent, listener, serve, :lists.delete(pid, sessions))

      {:DOWN, _monitor, :process, _pid, _crash} ->
        :erlang.halt(1)

      {^parent, {:data, "leave\n"}} ->
        :gen_tcp.close(listener)
        :lists.foreach(&:erlang.send(&1, :leave), sessions)
        leave(parent, sessions)

      {^parent, _word_or_eof} ->
        :erlang.halt(0)

      {:EXIT, ^parent, _reason} ->
        :erlang.halt(0)
    end
  end

  @spec leave(port(), [pid()]) :: no_return()
  defp leave(_parent, []), do: :erlang.halt(0)

  defp leave(parent, sessions) do
    receive do
      {:accepted, pid} ->
        :erlang.send(pid, :leave)
        leave(parent, [pid | sessions])

      {:DOWN, _monitor, :process, pid, _reason} ->
        leave(parent, :lists.delete(pid, sessions))

      {^parent, _word_or_eof} ->
        :erlang.halt(0)

      {:EXIT, ^parent, _reason} ->
        :erlang.halt(0)
    end
  end

  defp serve(socket) do
    :ok = :inet.setopts(socket, active: true)
    answer(socket, 1, 0)
  end

  defp answer(socket, received, answered) do
    receive do
      {:tcp, ^socket, <<?R, id::64, payload::binary>>} ->
        answer = <<:erlang.crc32(payload)::32>>

        if rem(received, @hold_every) == 0 do
          :erlang.send_after(@hold_ms, self(), {:held, id, answer})
          answer(socket, received + 1, answered)
        else
          send_frame(socket, <<id::64, answered + 1::64, answer::binary>>)
          answer(socket, received + 1, answered + 1)
        end

      {:held, id, answer} ->
        send_frame(socket, <<id::64, answered + 1::64, answer::binary>>)
        answer(socket, received, answered + 1)

      {:tcp, ^socket, <<?C, id::64>>} ->
        send_frame(socket, <<id::64, answered::64>>)
        answer(socket, received, answered)

      :leave ->
        send_frame(socket, <<?G>>)
        answer(socket, received, answered)

      {:tcp_closed, ^socket} ->
        :ok
    end
  end

  # A send that fails is followed by the message that ends the loop.
  defp send_frame(socket, frame), do: :gen_tcp.send(socket, frame)
end
