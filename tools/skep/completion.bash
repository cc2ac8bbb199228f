# SPDX-License-Identifier: Apache-2.0
# Completion of skep for bash, as `skep completion bash` prints it.

_skep()
{
	local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command='' words='' i

	case $before in
	--socket | --token-file | --tokens)
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		return
		;;
	esac
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket | --realm | --token-file) ((i++)) ;;
		-*) ;;
		*)
			command=${COMP_WORDS[i]}
			break
			;;
		esac
	done
	case $command in
	"") words="status top realms spaces sessions show tree where explain pin unpin evict purge verify fsck unfence selftest config check metrics completion version help replay bench doctor --version" ;;
	help) words="status top realms spaces sessions show tree where explain pin unpin evict purge verify fsck unfence selftest config check metrics completion version help replay bench doctor" ;;
	status) words="" ;;
	top) words=" --interval --once" ;;
	realms) words="" ;;
	spaces) words="" ;;
	sessions) words="" ;;
	show) words="blocks roots pins counters misses latencies --space --below --limit" ;;
	tree) words=" --space --depth --limit" ;;
	where) words="" ;;
	explain) words=" --space --tokens --token-ids" ;;
	pin) words="" ;;
	unpin) words="" ;;
	evict) words=" --block --bytes" ;;
	purge) words=" --space --all --yes" ;;
	verify) words=" --rate" ;;
	fsck) words=" --ssd --manifest --config --payloads --rate --rebuild" ;;
	unfence) words="" ;;
	selftest) words=" --blocks --bytes" ;;
	config) words="" ;;
	check) words="" ;;
	metrics) words="" ;;
	completion) words="bash zsh fish" ;;
	version) words="" ;;
	replay) words=" --payload-bytes --dram-blocks --ssd-blocks --ssd-path --clients --speed --requests --socket --seed --json --help" ;;
	bench) words="match local ssd --blocks --block-tokens --index-blocks --interleaved --batch --turnover --matches --block-bytes --clients --walk-bytes --put-bytes --gets --rounds --ssd-bytes --dram-bytes --sessions --run-bytes --seconds --loads --seed --json --help --ssd-path" ;;
	doctor) words="" ;;
	esac
	[[ $command == replay || $command == bench ]] || words+=" --socket --realm --token-file --json --help"
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
	if [[ $command == replay && $current != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
	fi
}
complete -o filenames -F _skep skep
