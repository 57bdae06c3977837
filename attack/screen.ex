defmodule GrpcLb.Attack.Screen do
  @moduledoc "A screen that nobody looks at: the group leader of all who call what prints."

  def start do
    Process.register(spawn_link(&dark/0), __MODULE__)
  end

  def stop do
    screen = Process.whereis(__MODULE__)
    Process.unlink(screen)
    Process.exit(screen, :kill)
  end

  defp dark do
    receive do
      {:io_request, from, tag, request} -> send(from, {:io_reply, tag, shown(request)})
    end

    dark()
  end

  defp shown(request) when elem(request, 0) in [:put_chars, :requests], do: :ok
  defp shown(_about_the_screen), do: {:error, :enotsup}
end
