defmodule Mix.Tasks.GrpcLb.Demo.Server do
  @moduledoc false
  # One backend: a TCP server that runs in an operating-system process of its own. It calls
  # Erlang's modules only, so a plain `erl` starts it, without Elixir on its code path.
  #
  # A frame is four bytes of length and then
  #
  #     request  <<?R, id::64, payload>>      answer  <<id::64, count::64, CRC-32 of payload::32>>
  #     request  <<?C, id::64>>               answer  <<id::64, count::64>>
  #
  # where `count` is how many ?R requests this server has answered, this one included.
  # One request in @hold_every is held back, so that later ones overtake it.
  #
  # A server that is told how long its work takes serves as `Work` says instead.

  alias Mix.Tasks.GrpcLb.Demo.Work

  @hold_every 64
  @hold_ms 2

  # Each blocks for as long as the server lives. The end of stdin is the end of the parent, however
  # it died, and so is a stdout that nobody reads, which ends the port; the end of the one
  # connection is the end of the work.
  @spec start() :: no_return()
  def start do
    run(fn socket ->
      :ok = :inet.setopts(socket, active: true)
      loop(socket, 1, 0)
    end)
  end

  # With the command line's words as `erl -run` hands them over.
  @spec start([charlist()]) :: no_return()
  def start([work_ms, failing_percent]) do
    work_ms = :erlang.list_to_integer(work_ms)
    failing_percent = :erlang.list_to_integer(failing_percent)
    run(fn socket -> Work.serve(socket, work_ms, failing_percent) end)
  end

  @spec run((:gen_tcp.socket() -> term())) :: no_return()
  defp run(serve) do
    :erlang.process_flag(:trap_exit, true)
    parent = :erlang.open_port({:fd, 0, 1}, [:binary, :eof])

    {:ok, listener} =
      :gen_tcp.listen(0, [
        :binary,
        packet: 4,
        active: false,
        nodelay: true,
        ip: {127, 0, 0, 1}
      ])

    {:ok, number} = :inet.port(listener)
    :erlang.port_command(parent, [:erlang.integer_to_binary(number), ?\n])
    {_pid, monitor} = :erlang.spawn_monitor(fn -> serve.(accept(listener)) end)

    receive do
      {:DOWN, ^monitor, :process, _pid, :normal} -> :erlang.halt(0)
      {:DOWN, ^monitor, :process, _pid, _crash} -> :erlang.halt(1)
      {^parent, :eof} -> :erlang.halt(0)
      {:EXIT, ^parent, _reason} -> :erlang.halt(0)
    end
  end

  defp accept(listener) do
    {:ok, socket} = :gen_tcp.accept(listener)
    :ok = :gen_tcp.close(listener)
    socket
  end

  defp loop(socket, received, answered) do
    receive do
      {:tcp, ^socket, <<?R, id::64, payload::binary>>} ->
        answer = <<:erlang.crc32(payload)::32>>

        if rem(received, @hold_every) == 0 do
          :erlang.send_after(@hold_ms, self(), {:held, id, answer})
          loop(socket, received + 1, answered)
        else
          send_frame(socket, <<id::64, answered + 1::64, answer::binary>>)
          loop(socket, received + 1, answered + 1)
        end

      {:held, id, answer} ->
        send_frame(socket, <<id::64, answered + 1::64, answer::binary>>)
        loop(socket, received, answered + 1)

      {:tcp, ^socket, <<?C, id::64>>} ->
        send_frame(socket, <<id::64, answered::64>>)
        loop(socket, received, answered)

      {:tcp_closed, ^socket} ->
        :ok
    end
  end

  # A send that fails is followed by the message that ends the loop.
  defp send_frame(socket, frame), do: :gen_tcp.send(socket, frame)
end
