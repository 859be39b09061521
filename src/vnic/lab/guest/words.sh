# The words that commands in the guest have beside the programs: /init reads this file, and a guest with a root of its own
# has them as programs.

# wait_carrier INTERFACE 0|1 SECONDS: returns as soon as the carrier is so, 1 when it is not in time.
# Between two looks lie 0.2 ms, so that the guest's CPU is not spent on looking.
wait_carrier() {
  read -r now _ </proc/uptime
  limit=$((${now%.*} + $3 + 1))
  while :; do
    read -r carrier 2>/dev/null <"/sys/class/net/$1/carrier"
    [ "$carrier" = "$2" ] && return 0
    read -r now _ </proc/uptime
    [ "${now%.*}" -ge "$limit" ] && return 1
    usleep 200
  done
}

# start_shell: a shell for a person, on the console $VNIC_SHELL; the guest ends with it.
start_shell() {
  # Whoever leads a session and opens a terminal has it as its own: job control and Ctrl-C work. Not by `&`: what a
  # script puts into the background ignores Ctrl-C for ever (POSIX sh, 2.11). `-p`: look for no other sh.
  start-stop-daemon -S -b -p /none -x /bin/sh -- \
    -c 'setsid sh -c "exec sh -i <>/dev/$VNIC_SHELL >&0 2>&1"; poweroff -f'
}
