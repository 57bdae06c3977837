defmodule GrpcLb.Secret do
  @moduledoc false
  # Hides a term from whoever prints what holds it: the options of a transport in a child
  # specification, which supervisors report, or in the state of a process that crashes. A function is
  # printed without what it closes over, by Erlang's formatters, too, which know no `Inspect`.
  #
  # What is hidden lives as long as a supervisor, and a function ends with the version of its module: let
  # nothing be added here that changes.

  @type t :: (() -> term())

  @doc """
  Hides a term.

      iex> secret = GrpcLb.Secret.hide(token: "hunter2")
      iex> "~p" |> :io_lib.format([secret]) |> to_string() =~ "hunter2"
      false
      iex> GrpcLb.Secret.reveal(secret)
      [token: "hunter2"]
  """
  @spec hide(term()) :: t()
  def hide(term), do: fn -> term end

  @doc "What was hidden."
  @spec reveal(t()) :: term()
  def reveal(secret), do: secret.()

  @doc "Calls a function with hidden arguments: the start function of a child specification."
  @spec start(module(), function :: atom(), arguments :: t()) :: term()
  def start(module, function, arguments), do: apply(module, function, reveal(arguments))
end
