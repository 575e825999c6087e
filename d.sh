cd /tmp/c/k_runs/a; L=/tmp/c/k_sweeps/.venv/bin/lathe
rm -rf runs/single
time $L run model=softmax max_steps=2000000 tracking=off --detach; echo rc $?
R=$(ls runs/single | grep -v ignore | head -1)
$L status $R; $L run model=softmax max_steps=2000000 resume=true tracking=off --detach; echo rc $?
$L cancel $R; echo rc $?
$L resume $R --detach; $L logs $R -f & sleep 3; $L cancel $R; wait
cat runs/single/$R/background.log
$L run model=softmax max_steps=20 data=csv data.path=/nope.csv data.target=y --detach; echo rc $?
