defmodule Mix.Tasks.GrpcLb.Demo.CommandLine do
  @moduledoc false
  # What the arguments ask for: the plot of `Scenario`, or a policy's contest.

  alias Mix.Tasks.GrpcLb.Demo.{Contest, Lineup}

  @type request :: {:scenario, seconds :: number()} | {:contest, Contest.setup()}

  @usage "mix grpc_lb.demo [--seconds SECONDS] [--policy POLICY [--slow N] [--flaky N]]"
  @switches [seconds: :float, policy: :string, slow: :integer, flaky: :integer]
  @seconds 10
  @most_seconds 30

  # Raises `Mix.Error` that says what is wrong and what is allowed.
  @spec parse!([String.t()]) :: request()
  def parse!(args) do
    case OptionParser.parse(args, strict: @switches) do
      {options, [], []} -> request(Map.new(options))
      {_options, _words, [{switch, value} | _]} -> wrong!(refused(switch, value))
      {_options, [word | _], []} -> wrong!("unexpected argument #{word}")
    end
  end

  defp request(%{policy: policy} = options) do
    lineup = lineup!(Map.get(options, :slow, 0), Map.get(options, :flaky, 0))
    # With less, nothing would be left after the first sweeps.
    seconds = seconds!(options, ceil(2 * Contest.settled_ms() / 1000))
    {:contest, %{policy: policy!(policy), lineup: lineup, seconds: seconds}}
  end

  defp request(options) do
    for option <- [:slow, :flaky], is_map_key(options, option) do
      wrong!("--#{option} goes with --policy only")
    end

    {:scenario, seconds!(options, 0)}
  end

  defp seconds!(options, least) do
    seconds = Map.get(options, :seconds, @seconds)

    if seconds < least or seconds > @most_seconds do
      with_policy = if is_map_key(options, :policy), do: " with --policy", else: ""
      wrong!("--seconds#{with_policy} must be from #{least} to #{@most_seconds}, got #{seconds}")
    end

    seconds
  end

  defp policy!(name) do
    names = GrpcLb.Policy.names()

    Enum.find(names, &(Atom.to_string(&1) == name)) ||
      wrong!("unknown policy #{inspect(name)}, expected #{Enum.join(names, " or ")}")
  end

  defp lineup!(slow, flaky) do
    all = Lineup.size()

    for {option, number} <- [slow: slow, flaky: flaky], number < 0 do
      wrong!("--#{option} must be from 0 to #{all}, got #{number}")
    end

    if slow + flaky > all do
      wrong!("there are #{all} servers, too few for #{slow} slow and #{flaky} flaky ones")
    end

    Lineup.new(slow, flaky)
  end

  defp refused(switch, value) do
    known? = Enum.any?(@switches, fn {option, _type} -> "--#{option}" == switch end)

    case {known?, value} do
      {false, _value} -> "unknown option #{switch}"
      {true, nil} -> "#{switch} needs a value"
      {true, value} -> "#{switch} must be a number, got #{value}"
    end
  end

  @spec wrong!(String.t()) :: no_return()
  defp wrong!(what), do: Mix.raise("#{what}\nusage: #{@usage}")
end
