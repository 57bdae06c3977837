defmodule GrpcLb.Test.Loud do
  @moduledoc "A struct that is shown as its module likes, which is none too good."

  defstruct [:does, secret: "hunter2"]

  defimpl Inspect do
    def inspect(%{does: :raise}, _opts), do: raise("not today")
    def inspect(%{does: :throw}, _opts), do: throw(:not_today)
    def inspect(%{does: :exit}, _opts), do: exit(:not_today)
    def inspect(%{does: :shout}, _opts), do: String.duplicate("not today", 100_000)
    def inspect(%{does: :mumble}, _opts), do: <<255>>
    def inspect(%{does: _nothing}, _opts), do: "#Loud<>"
  end
end
