defmodule Mix.GrpcLb.Precompiled do
  # Libraries that somebody else has built, as `make package` packs them: where one lies for this machine,
  # and whether it is what the package says.
  @moduledoc false

  alias Mix.GrpcLb.Machine

  @nif_version "2.16"
  @checksums "checksum-Elixir.GrpcLb.Native.exs"
  @library "grpc_lb_nif.so"
  # A hundred times what one takes.
  @max_bytes 100_000_000
  @cut_short [:socket_closed_remotely, {:shutdown, :server_closed}]
  @connect_timeout 10_000
  @timeout 120_000

  @typedoc "A folder, or an `http://` or `https://` address."
  @type base :: String.t()

  @doc """
  The name of the file for a version and a target.

      iex> Mix.GrpcLb.Precompiled.file_name("0.2.0", "x86_64-unknown-linux-gnu")
      "grpc_lb_nif-0.2.0-nif-2.16-x86_64-unknown-linux-gnu.tar.gz"
  """
  @spec file_name(version :: String.t(), target :: String.t()) :: String.t()
  def file_name(version, target),
    do: "grpc_lb_nif-#{version}-nif-#{@nif_version}-#{target}.tar.gz"

  @doc """
  Fetches the library for this machine.

    * `{:ok, library, from}` - its bytes, and the file that they are from
    * `{:none, why}` - there is none to be had
    * `{:error, why}` - there is one, and it must not be used
  """
  @spec fetch(base(), root :: Path.t(), version :: String.t()) ::
          {:ok, binary(), String.t()} | {:none, String.t()} | {:error, String.t()}
  def fetch(base, root, version) do
    with {:ok, target} <- target(),
         file = file_name(version, target),
         from = "#{String.trim_trailing(base, "/")}/#{file}",
         {:ok, checksum} <- checksum(base, root, file),
         {:ok, packed} <- read(from),
         :ok <- verify(packed, checksum, from),
         {:ok, library} <- unpack(packed, from),
         :ok <- check(library, target, from),
         do: {:ok, library, from}
  end

  defp target do
    with :error <- Machine.target() do
      {:none, "none is made for #{:erlang.system_info(:system_architecture)}"}
    end
  end

  # What comes over the network is checked against what the package carries. A folder may bring its own
  # list: whoever could change that could change the package too.
  defp checksum(base, root, file) do
    lists = [root] ++ if(remote?(base), do: [], else: [base])

    case lists |> Enum.map(&Path.join(&1, @checksums)) |> Enum.find(&File.regular?/1) do
      nil -> {:none, "this package carries no checksums (#{@checksums})"}
      list -> listed(list, file)
    end
  end

  defp listed(list, file) do
    case read_list(list) do
      {:ok, %{^file => "sha256:" <> checksum}} -> {:ok, checksum}
      {:ok, _others} -> {:none, "#{list} does not list #{file}"}
      :error -> {:error, "#{list} is no map of files and their checksums"}
    end
  end

  # Read, not evaluated: a map of strings.
  defp read_list(list) do
    with {:ok, {:%{}, _, pairs}} <- list |> File.read!() |> Code.string_to_quoted(),
         true <-
           Enum.all?(pairs, &match?({file, sum} when is_binary(file) and is_binary(sum), &1)) do
      {:ok, Map.new(pairs)}
    else
      _other -> :error
    end
  end

  defp remote?(base), do: String.starts_with?(base, ["http://", "https://"])

  defp read(from) do
    if remote?(from), do: download(from), else: read_file(from)
  end

  defp read_file(path) do
    with {:error, reason} <- File.read(path) do
      {:none, "#{path} cannot be read: #{:file.format_error(reason)}"}
    end
  end

  defp download(url) do
    Enum.each([:inets, :ssl], &start/1)
    options = [timeout: @timeout, connect_timeout: @connect_timeout] ++ tls()
    request = {String.to_charlist(url), [{~c"user-agent", ~c"grpc_lb"}]}

    case :httpc.request(:get, request, options, body_format: :binary) do
      {:ok, {{_http, 200, _reason}, headers, body}} -> whole(body, headers, url)
      {:ok, {{_http, status, _reason}, _headers, _body}} -> {:none, "#{url} answered #{status}"}
      {:error, reason} when reason in @cut_short -> {:error, "#{url} ended before it was whole"}
      {:error, reason} -> {:none, "#{url} cannot be had: #{reason(reason)}"}
    end
  end

  # Mix takes what a project does not name off the code path.
  defp start(application) do
    if function_exported?(Mix, :ensure_application!, 1),
      do: apply(Mix, :ensure_application!, [application])

    {:ok, _started} = Application.ensure_all_started(application)
  end

  # For http:// too, which may lead to https://, and for which httpc would look for certificates itself, and
  # raise where there are none.
  defp tls do
    [
      ssl: [
        verify: :verify_peer,
        cacerts: certificates(),
        customize_hostname_check: [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
      ]
    ]
  end

  # A small system may have none. Then nobody is trusted.
  defp certificates do
    :public_key.cacerts_get()
  rescue
    _error -> []
  end

  defp whole(body, headers, url) do
    case List.keyfind(headers, ~c"content-length", 0) do
      {_name, length} ->
        if List.to_integer(length) == byte_size(body),
          do: {:ok, body},
          else: {:error, "#{url} ended after #{byte_size(body)} of #{length} bytes"}

      nil ->
        {:ok, body}
    end
  end

  defp reason({:failed_connect, details}) do
    case List.keyfind(details, :inet, 0) do
      {:inet, _families, reason} -> inspect(reason)
      nil -> inspect(details)
    end
  end

  defp reason(other), do: inspect(other)

  defp verify(packed, checksum, from) do
    case Base.encode16(:crypto.hash(:sha256, packed), case: :lower) do
      ^checksum -> :ok
      other -> {:error, "the checksum of #{from} is #{other}, and has to be #{checksum}"}
    end
  end

  defp unpack(packed, from) do
    with {:ok, [{_name, library}]} <- :erl_tar.extract({:binary, packed}, [:memory, :compressed]),
         true <- byte_size(library) <= @max_bytes do
      {:ok, library}
    else
      _other -> {:error, "#{from} is no archive of one file, #{@library}"}
    end
  end

  defp check(library, target, from) do
    with {:error, what} <- Machine.check(library, target),
         do: {:error, "#{from} has #{what}, and this machine is #{target}"}
  end
end
