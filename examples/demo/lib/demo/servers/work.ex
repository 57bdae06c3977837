defmodule Demo.Servers.Work do
  @moduledoc false
  # A server whose requests take time, and of which some fail. The frames are `Server`'s, and
  #
  #     request  <<?R, id::64, payload>>      answer  <<id::64, count::64, ?F>>   when it failed
  #
  # A request that fails takes as long as any other. As `Server`, this calls Erlang only.

  # So many requests are worked on at the same time. While there are that many nothing more is
  # read, and what comes waits in the socket.
  @at_once 128

  def serve(socket, work_ms, failing_percent) do
    work = %{socket: socket, work_ms: work_ms, failing_percent: failing_percent}
    read_next(socket)
    loop(work, 0, 0)
  end

  defp loop(%{socket: socket} = work, working, answered) do
    receive do
      {:tcp, ^socket, <<?R, id::64, payload::binary>>} ->
        answer = answer(payload, answered + working, work.failing_percent)
        :erlang.send_after(work.work_ms, self(), {:done, id, answer})
        if working + 1 < @at_once, do: read_next(socket)
        loop(work, working + 1, answered)

      {:done, id, answer} ->
        send_frame(socket, <<id::64, answered + 1::64, answer::binary>>)
        if working == @at_once, do: read_next(socket)
        loop(work, working - 1, answered + 1)

      {:tcp, ^socket, <<?C, id::64>>} ->
        send_frame(socket, <<id::64, answered::64>>)
        read_next(socket)
        loop(work, working, answered)

      {:tcp_closed, ^socket} ->
        :ok
    end
  end

  # Spread evenly, the first one among them: of any 100 in a row that many fail, give or take one.
  defp answer(payload, number, failing_percent) do
    case :erlang.rem(number * failing_percent, 100) < failing_percent do
      true -> "F"
      false -> <<:erlang.crc32(payload)::32>>
    end
  end

  # Of a socket that is closed, the message comes that ends the loop.
  defp read_next(socket), do: :inet.setopts(socket, active: :once)
  defp send_frame(socket, frame), do: :gen_tcp.send(socket, frame)
end
