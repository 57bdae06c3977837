defmodule GrpcLb.Top.Keyboard do
  # The keys of the terminal: one by one where the VM has it for itself, as in a Mix task, and else by
  # lines, as the shell of IEx gives them.
  @moduledoc false

  alias GrpcLb.Look.Terminal

  @enforce_keys [:mode, :reader]
  defstruct [:mode, :reader, :raw]

  @type t :: %__MODULE__{mode: :keys | :lines, reader: pid(), raw: port() | nil}

  # Has the terminal give keys as they come, and puts it back once it is told, or its input ends because
  # the VM was killed.
  @set_up ~S"""
  saved=$(stty -g < "$0") && stty -icanon -echo -isig min 1 time 0 < "$0" || exit 1
  echo raw
  read -r told
  stty "$saved" < "$0"
  """

  @answer_ms 2_000

  @doc """
  Listens. The calling process is sent `{reader, keys}` or `{reader, :closed}`: the first time by itself,
  and then once for each `more/1`.
  """
  @spec open() :: t()
  def open do
    raw = if Terminal.own?(), do: raw()
    mode = if raw, do: :keys, else: :lines
    listener = self()
    reader = spawn_link(fn -> read(mode, listener) end)
    %__MODULE__{mode: mode, reader: reader, raw: raw}
  end

  @doc "Asks for more keys."
  @spec more(t()) :: :ok
  def more(keyboard) do
    send(keyboard.reader, :more)
    :ok
  end

  @doc "Gives the terminal back as it was."
  @spec close(t()) :: :ok
  def close(%{reader: reader, raw: raw}) do
    Process.unlink(reader)
    Process.exit(reader, :kill)
    if raw, do: put_back(raw)
    :ok
  end

  defp raw do
    with sh when sh != nil <- System.find_executable("sh"),
         {:ok, device} <- device() do
      options = [:binary, :exit_status, :stderr_to_stdout, args: ["-c", @set_up, device]]
      port = Port.open({:spawn_executable, sh}, options)

      receive do
        {^port, {:data, "raw" <> _}} -> port
        {^port, _no_terminal} -> nil
      after
        @answer_ms -> nil
      end
    else
      _not_found -> nil
    end
  end

  defp put_back(port) do
    Port.command(port, "\n")

    receive do
      {^port, {:exit_status, _status}} -> :ok
    after
      @answer_ms -> Port.close(port)
    end
  end

  # A program that the VM starts has no terminal of its own, and is told which.
  defp device do
    with ps when ps != nil <- System.find_executable("ps"),
         {tty, 0} <- System.cmd(ps, ["-o", "tty=", "-p", System.pid()], stderr_to_stdout: true),
         path = Path.join("/dev", String.trim(tty)),
         true <- File.exists?(path) do
      {:ok, path}
    else
      _none -> :error
    end
  end

  defp read(mode, listener) do
    case input(mode) do
      keys when is_list(keys) ->
        send(listener, {self(), keys})
        receive do: (:more -> read(mode, listener))

      _end_or_error ->
        send(listener, {self(), :closed})
    end
  end

  defp input(:lines) do
    with line when is_binary(line) <- IO.gets("") do
      keys = line |> String.trim_trailing("\n") |> String.graphemes()
      keys ++ [:enter]
    end
  end

  defp input(:keys), do: press(:stdio)

  @doc """
  Reads what one press of a key sends. Escape alone does nothing, and takes nothing of the key after it.

      iex> {:ok, device} = StringIO.open("\\e[A\\e[1;5B\\eq\\n")
      iex> for _ <- 1..5, do: GrpcLb.Top.Keyboard.press(device)
      [[:up], [:down], ["q"], [:enter], :eof]
  """
  @spec press(IO.device()) :: [String.t() | :enter | :up | :down] | :eof | {:error, term()}
  def press(device) do
    case IO.getn(device, "", 1) do
      "\e" -> escape(device)
      key -> key(key)
    end
  end

  defp key(enter) when enter in ["\r", "\n"], do: [:enter]
  defp key(key) when is_binary(key), do: [key]
  defp key(closed), do: closed

  defp escape(device) do
    case IO.getn(device, "", 1) do
      opening when opening in ["[", "O"] -> sequence(device)
      "\e" -> escape(device)
      key -> key(key)
    end
  end

  # ECMA-48 5.4: parameters, and a final byte from 0x40 to 0x7E.
  defp sequence(device) do
    case IO.getn(device, "", 1) do
      "A" -> [:up]
      "B" -> [:down]
      <<final>> when final in 0x40..0x7E -> []
      parameter when is_binary(parameter) -> sequence(device)
      closed -> closed
    end
  end
end
