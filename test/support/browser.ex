defmodule GrpcLb.Test.Browser do
  @moduledoc """
  Headless Chromium, told by its debugging protocol what to do.

  It reads commands at descriptor 3 and writes answers to 4, which is what a port without the standard
  ones has, and ends when they are closed.
  """

  import GrpcLb.Test.Eventually

  @answer_ms 60_000

  @type t :: %{port: port()}

  @doc "Where Chromium is, if it is there."
  def find,
    do: Enum.find_value(~w(chromium chromium-browser google-chrome), &System.find_executable/1)

  @doc "Starts it. It ends with the calling process."
  def start! do
    folder =
      Path.join(
        System.tmp_dir!(),
        "grpc_lb_browser_#{System.pid()}_#{System.unique_integer([:positive])}"
      )

    args =
      ~w(--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run
         --disable-background-networking --remote-debugging-pipe --user-data-dir=#{folder} about:blank)

    # It complains of what a machine without a desktop lacks.
    args = ["-c", "exec \"$0\" \"$@\" 2> /dev/null", find() | args]
    options = [:binary, :nouse_stdio, :exit_status, args: args]
    port = Port.open({:spawn_executable, System.find_executable("sh")}, options)
    {:os_pid, pid} = Port.info(port, :os_pid)

    ExUnit.Callbacks.on_exit(fn ->
      # It ends by itself, and writes until then.
      eventually(fn -> kill(pid) != 0 end)
      File.rm_rf(folder)
    end)

    %{port: port}
  end

  defp kill(pid) do
    {_output, status} = System.cmd("kill", ["-9", "#{pid}"], stderr_to_stdout: true)
    status
  end

  @doc "Opens a page. Those that follow are asked in it."
  def open!(browser, url) do
    %{"targetId" => target} = command!(browser, "Target.createTarget", %{url: url})
    attach = %{targetId: target, flatten: true}
    %{"sessionId" => session} = command!(browser, "Target.attachToTarget", attach)
    Process.put(__MODULE__, session)
    loaded = %{expression: "location.protocol + document.readyState"}

    eventually(fn ->
      match?(
        %{"result" => %{"value" => "http:complete"}},
        ask(browser, "Runtime.evaluate", loaded)
      )
    end)
  end

  @doc "The value of an expression in the page that was opened; of a promise once it has come."
  def evaluate!(browser, expression) do
    parameters = %{expression: expression, returnByValue: true, awaitPromise: true}

    case command!(browser, "Runtime.evaluate", parameters) do
      %{"exceptionDetails" => details} -> raise "#{expression}: #{inspect(details)}"
      %{"result" => result} -> result["value"]
    end
  end

  @doc "A picture of the page, as PNG."
  def picture!(browser, %{width: _, height: _, scheme: scheme} = how) do
    features = [%{name: "prefers-color-scheme", value: scheme}]
    command!(browser, "Emulation.setEmulatedMedia", %{features: features})

    metrics = %{
      width: how.width,
      height: how.height,
      deviceScaleFactor: 1,
      mobile: how.width < 600
    }

    command!(browser, "Emulation.setDeviceMetricsOverride", metrics)
    picture = command!(browser, "Page.captureScreenshot", %{captureBeyondViewport: true})
    Base.decode64!(picture["data"])
  end

  defp command!(browser, method, parameters) do
    case ask(browser, method, parameters) do
      %{"error" => error} -> raise "#{method}: #{inspect(error)}"
      result -> result
    end
  end

  defp ask(%{port: port}, method, parameters) do
    id = System.unique_integer([:positive])
    session = Process.get(__MODULE__)
    command = %{id: id, method: method, params: parameters}
    command = if session, do: Map.put(command, :sessionId, session), else: command
    Port.command(port, [GrpcLb.Dashboard.Json.encode(command), 0])
    await!(port, id, Process.get({__MODULE__, port}, ""))
  end

  defp await!(port, id, received) do
    case String.split(received, <<0>>, parts: 2) do
      [message, rest] ->
        Process.put({__MODULE__, port}, rest)

        case decode(message) do
          %{"id" => ^id, "result" => result} -> result
          %{"id" => ^id, "error" => error} -> %{"error" => error}
          _event -> await!(port, id, rest)
        end

      [_part] ->
        receive do
          {^port, {:data, more}} -> await!(port, id, received <> more)
          {^port, {:exit_status, status}} -> raise "the browser ended with #{status}"
        after
          @answer_ms -> raise "the browser does not answer"
        end
    end
  end

  # Of what it says.
  defp decode(text) do
    {value, _rest} = value(text)
    value
  end

  defp value(<<space, rest::binary>>) when space in ~c" \n\r\t", do: value(rest)
  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("\"" <> rest), do: string(rest, [])
  defp value("[" <> rest), do: members(rest, "]", [], &value/1)

  defp value("{" <> rest) do
    {pairs, rest} =
      members(rest, "}", [], fn text ->
        {key, ":" <> rest} = value(text)
        {value, rest} = value(rest)
        {{key, value}, rest}
      end)

    {Map.new(pairs), rest}
  end

  defp value(number) do
    [text] = Regex.run(~r/\A-?[0-9.eE+-]+/, number)
    rest = binary_part(number, byte_size(text), byte_size(number) - byte_size(text))

    case Integer.parse(text) do
      {integer, ""} -> {integer, rest}
      _fraction -> {text |> Float.parse() |> elem(0), rest}
    end
  end

  defp members(text, close, found, read) do
    case text do
      <<^close::binary-size(1), rest::binary>> ->
        {Enum.reverse(found), rest}

      "," <> rest ->
        members(rest, close, found, read)

      text ->
        {member, rest} = read.(text)
        members(rest, close, [member | found], read)
    end
  end

  defp string("\"" <> rest, read), do: {IO.iodata_to_binary(read), rest}

  defp string("\\u" <> <<digits::binary-size(4), rest::binary>>, read),
    do: string(rest, [read, <<String.to_integer(digits, 16)::utf8>>])

  defp string(<<"\\", char, rest::binary>>, read) do
    named = %{?n => "\n", ?r => "\r", ?t => "\t", ?b => "\b", ?f => "\f"}
    string(rest, [read, Map.get(named, char, <<char>>)])
  end

  defp string(<<char, rest::binary>>, read), do: string(rest, [read, char])
end
