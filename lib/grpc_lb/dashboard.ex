defmodule GrpcLb.Dashboard do
  alias GrpcLb.Dashboard.Server
  alias GrpcLb.Look.Sample
  alias GrpcLb.{Options, Text}

  @options [
    port: [
      type: {:integer, from: 0, to: 65_535},
      default: 4040,
      doc: "where it listens; 0 is any port that is free, which `url/1` tells."
    ],
    ip: [
      type: {:or, {:reader, "an IP address as a tuple or a string", &Server.ip/1}, nil},
      default: nil,
      doc: "the address to listen at, `127.0.0.1` by default. Whoever can reach it can look."
    ],
    hosts: [
      type: {:reader, "a list of 100 names of hosts at most, without ports", &Server.hosts/1},
      default: [],
      doc: """
      names by which it may be asked for, beside `localhost` and `:ip`, without ports: the one of a proxy in
      front of it, say. Where `:ip` is `0.0.0.0` the machine's own addresses and names are among them only if
      they are given here.
      """
    ]
  ]
  @prepared Options.prepare(@options)

  @moduledoc """
  The balancers of this node in a browser: states, shares, latencies, failures and calls in flight over
  time, with ejections marked, and where keys lead with a policy that hashes.

      {:ok, dashboard} = GrpcLb.Dashboard.start(port: 4040)

  and open <http://127.0.0.1:4040/>. It is not started unless it is asked for: from a console, or by a
  supervisor, `children = [{GrpcLb.Dashboard, port: 4040}]`.

  It is one page that asks for nothing elsewhere, served by OTP's own `:inets`, whose code it needs:
  a release has it with `extra_applications: [:inets]`; under Mix it is found without. While a page is open, and
  its tab is in sight, it asks once a second for `GrpcLb.info/1` of the balancer that it shows; when none is,
  nothing is done. However many ask, one look is taken at a time, and serves all for half a second. Of more than
  #{Sample.most()} backends it shows so many, those first that are not well, and counts all. What happened before
  a page was opened it does not know.

  ## Who can look

  It listens on loopback, without a password: whoever has an account on the machine can look, at ids, names,
  counts and states; values are never shown. Nothing can be changed. From elsewhere, use a tunnel, such as
  `ssh -L 4040:127.0.0.1:4040 host`, or put a proxy in front of it that asks who it is.

  A page of another site cannot read it through the browser of someone who can: only `GET` is answered, and
  only where the `Host` is one of its own, which a name that was made to lead here is not, and the `Origin`,
  if there is one, is the same, and balancers are not looked at for what a page of another site has its visitor's
  browser fetch. Ids are shown as text, whatever is in them, and the page's policy has the
  browser run no other script than its own.

  ## Options

  #{Options.docs(@options)}
  """

  @doc """
  Starts it, and returns its pid. It is linked to no process.

    * `{:ok, pid}`
    * `{:error, :eaddrinuse}` - something listens on this port already; or another reason of POSIX
    * `{:error, {:inets_is_missing, why}}` - the release was made without it; a text says what to do

  Raises `ArgumentError` when an option is malformed.

      iex> {:ok, dashboard} = GrpcLb.Dashboard.start(port: 0)
      iex> GrpcLb.Dashboard.url(dashboard) =~ ~r{^http://127.0.0.1:[0-9]+/$}
      true
      iex> GrpcLb.Dashboard.stop(dashboard)
      :ok
  """
  @spec start(keyword()) :: {:ok, pid()} | {:error, term()}
  def start(opts \\ []), do: GenServer.start(Server, options!(opts))

  @doc "As `start/1`, linked to the calling process, as a supervisor has it."
  @spec start_link(keyword()) :: {:ok, pid()} | {:error, term()}
  def start_link(opts \\ []), do: GenServer.start_link(Server, options!(opts))

  @doc """
  A child of a supervisor.

      iex> GrpcLb.Dashboard.child_spec(port: 4040).id
      {GrpcLb.Dashboard, 4040}
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts),
    do: %{id: {__MODULE__, options!(opts).port}, start: {__MODULE__, :start_link, [opts]}}

  @doc "The address of its page, on this machine."
  @spec url(pid()) :: String.t()
  def url(dashboard), do: Server.url(dashboard!(dashboard))

  @doc "Stops it. Pages that are open say that there is no answer."
  @spec stop(pid()) :: :ok
  def stop(dashboard), do: GenServer.stop(dashboard!(dashboard))

  defp dashboard!(dashboard) when is_pid(dashboard), do: dashboard

  defp dashboard!(other) do
    raise ArgumentError,
          "dashboard must be the pid that start/1 returned, got: #{Text.show(other)}"
  end

  defp options!(opts), do: Options.validate!(opts, @prepared, __MODULE__)
end
