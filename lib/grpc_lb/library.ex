defmodule GrpcLb.Library do
  @moduledoc false
  # Whether the native library is the one that belongs to this code: asked once, when the application
  # starts, so that there is one error where every first call would have one of its own.

  alias GrpcLb.Native

  # That of native/nif/src/vm/library.rs.
  @abi 4

  # Where the process that loads the library tells what went wrong: the code server keeps it to itself.
  @key {__MODULE__, :error}

  @doc "The file, without its ending."
  @spec path() :: charlist()
  def path do
    # The code server finds applications by the names of their folders, and a folder can have another.
    priv =
      with {:error, :bad_name} <- :code.priv_dir(:grpc_lb) do
        :filename.join([:filename.dirname(:code.which(__MODULE__)), ~c"..", ~c"priv"])
      end

    :filename.join(priv, ~c"grpc_lb_nif")
  end

  @doc "Notes what loading the library came to, and passes it on."
  @spec note(:ok | {:error, {reason :: atom(), text :: charlist()}}) :: term()
  def note(:ok), do: :ok

  def note({:error, {_reason, text}} = error) do
    :persistent_term.put(@key, List.to_string(text))
    error
  end

  @doc "Loads the library. `{:error, message}` where it cannot be loaded, or is another."
  @spec check() :: :ok | {:error, String.t()}
  def check do
    case Code.ensure_loaded(Native) do
      {:module, Native} -> compare(Native.library())
      {:error, reason} -> {:error, message(said() || "#{reason}")}
    end
  rescue
    error in ErlangError ->
      case error.original do
        :nif_not_loaded -> {:error, message("it is older than this package, #{version()}")}
        _other -> reraise error, __STACKTRACE__
      end
  end

  defp compare({version, @abi}) do
    cond do
      version != version() ->
        {:error, message("it is of version #{version}, and this package is #{version()}")}

      missing = List.first(Native.stubs() -- Native.module_info(:nifs)) ->
        {name, arity} = missing
        {:error, message("it is another build of version #{version}, without #{name}/#{arity}")}

      true ->
        :ok
    end
  end

  defp compare({version, abi}) do
    {:error,
     message("it is another build of version #{version}, with ABI #{abi} and not #{@abi}")}
  end

  defp said do
    text = :persistent_term.get(@key, nil)
    :persistent_term.erase(@key)
    text
  end

  defp version, do: to_string(Application.spec(:grpc_lb, :vsn))

  defp message(why) do
    """
    the native library of grpc_lb is not the one that it needs: #{why}. It lies in \
    #{path()}.so; `mix compile --force` in a checkout, or \
    `mix deps.compile grpc_lb --force`, installs it anew\
    """
  end
end
