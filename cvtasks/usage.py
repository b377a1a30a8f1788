"""What `cvtasks --help` and `cvtasks VERB --help` print."""

HELP = """\
Train, judge and compare computer-vision systems.

    cvtasks train task=faster_rcnn                    train on generated scenes; needs no data
    cvtasks train task=faster_rcnn dataset=coco dataset.root=DIR
    cvtasks eval                                      evaluate the newest run
    cvtasks predict source=photos/                    draw what a trained model finds
    cvtasks resume RUN                                go on where a run was stopped
    cvtasks tune task=faster_rcnn 'optimizer.lr=interval(1e-4,1e-1)'    search for the best settings
    cvtasks proposals method=selective_search         where objects may be, and how many of them that finds
    cvtasks study upsampling                          one of the lectures' arguments, as a table and a picture
    cvtasks list tasks                                what there is; also backbones, datasets, studies, ...
    cvtasks config task=faster_rcnn --why optimizer.lr
    cvtasks completion bash                           shell completion; also zsh and fish

cvtasks VERB --help tells more. Every setting is key=value: cvtasks config task=faster_rcnn shows them all.
Exit codes: 0 done, 1 the run failed, 2 what was typed or the data is wrong, 3 the loss is not finite,
4 out of memory, 5 out of disk, 130 and 143 stopped by Ctrl-C or SIGTERM.
"""

HYDRA_HELP = """
    -m                 run every combination of values that are separated by commas, each in a process of its own; the
                       same command again skips what is done; sweep.jobs=2 runs two at once
    -cd DIR            a folder with YAML of your own: DIR/experiment/mine.yaml, DIR/dataset/mine.yaml, ...
    --cfg job          print the configuration and stop (as composed; cvtasks config resolves and checks it)
    --info defaults    print which YAML files it is made of; also searchpath, plugins, all
    -cn NAME           start from NAME.yaml instead of the verb's own file
"""

VERBS = {
    "train": """\
cvtasks train task=NAME [key=value ...]
Train a system; evaluate it, and leave everything in one folder.

    cvtasks train task=faster_rcnn
    cvtasks train task=faster_rcnn dataset=coco dataset.root=DIR backbone=resnet18 loader.batch_size=4
    cvtasks train task=faster_rcnn run_dir=runs/mine engine.max_steps=2000 seed=1
    cvtasks train -m task=faster_rcnn optimizer.lr=0.01,0.02
    cvtasks train -cd my_conf task=faster_rcnn experiment=mine
"""
    + HYDRA_HELP,
    "eval": """\
cvtasks eval [run=RUN | checkpoint=FILE | predictions=FILE or FOLDER] [key=value ...]
Evaluate a trained model: the newest run, if none is named. Its own configuration holds; what is typed wins over it.

    cvtasks eval
    cvtasks eval run=runs/mine
    cvtasks eval checkpoint=runs/mine/checkpoints/last.pt dataset=coco dataset.root=DIR
    cvtasks eval -m run=runs/a,runs/b
    cvtasks eval predictions=results.json dataset=coco dataset.val.annotations=val.json
    cvtasks eval predictions=maps/ dataset=masks dataset.val.labels=labels/val
"""
    + HYDRA_HELP,
    "predict": """\
cvtasks predict source=FILE|FOLDER|GLOB [run=RUN | checkpoint=FILE] [key=value ...]
Write what a trained model finds in images: an overlay (PNG) of each, and one JSON of all.

    cvtasks predict source=photos/
    cvtasks predict checkpoint=runs/mine/checkpoints/best.pt 'source=photos/*.jpg' output=found
    cvtasks predict run=runs/mine source=photo.jpg score_threshold=0.3
"""
    + HYDRA_HELP,
    "tune": """\
cvtasks tune task=NAME KEY=interval(LOW,HIGH) ... [trials=N] [key=value ...]
Search for the settings that are best by the task's monitor, with Optuna. Each trial is a cvtasks train of its own; hopeless
ones are ended early. It ends in a table and the best command; typed again, also with more trials, it goes on.

    cvtasks tune task=faster_rcnn 'optimizer.lr=interval(1e-4,1e-1)' trials=20 engine.max_steps=500
    cvtasks tune task=faster_rcnn 'optimizer.lr=tag(log,interval(1e-3,1e-2))' 'backbone=choice(tiny,resnet18)' pruning=false
    cvtasks tune task=faster_rcnn 'loader.batch_size=int(interval(2,16))' sweep.jobs=2 run_dir=runs/search

An interval is searched by its logarithm where its upper end is 100 times its lower one or more, or it is tagged log;
tag(linear,...) prevents that. int(interval(2,16)) is whole numbers; choice(a,b), a,b and range(1,9,2) are these
values alone.

    -cd DIR            a folder with YAML of your own, as of cvtasks train
    -cn NAME           start from NAME.yaml instead of train.yaml
""",
    "resume": """\
cvtasks resume RUN [key=value ...]
Go on with a run that was stopped, from its last checkpoint, with its own configuration.

    cvtasks resume runs/mine
    cvtasks resume runs/mine engine.max_steps=20000
""",
    "proposals": """\
cvtasks proposals method=NAME [dataset=NAME] [key=value ...]
Compute the boxes that may hold an object in the images of a split, with all cores; tell how many of its objects they
find, and how long they take. They are kept: whoever needs them later has them, and a stopped run goes on.

    cvtasks list proposals
    cvtasks proposals method=selective_search
    cvtasks proposals method=edge_boxes dataset=coco dataset.val.images=DIR dataset.val.annotations=JSON
    cvtasks proposals method=bing dataset=voc dataset.root=DIR split=train proposals.limit=1000 run_dir=found
    cvtasks proposals method=file proposals.val=FILE dataset=voc dataset.root=DIR
"""
    + HYDRA_HELP,
    "study": """\
cvtasks study NAME [key=value ...]
Run one of the lectures' arguments. It ends in NAME.json, NAME.csv, NAME.md and NAME.png; typed again with the same run_dir,
it goes on where it was stopped. A study's own settings need no study. in front: image_size=96,128 is
study.image_size=[96,128].

    cvtasks list studies
    cvtasks study upsampling
    cvtasks study upsampling run_dir=runs/mine kernel=1,4,2
    cvtasks study tradeoff task=faster_rcnn,ssd backbone=resnet18,mobilenet_v3_large image_size=96,128
    cvtasks study tradeoff --from RUN RUN image_size=96,128
    cvtasks study upsampling --cfg job
"""
    + HYDRA_HELP,
    "list": """\
cvtasks list [tasks|backbones|datasets|pipelines|evaluators|optimizers|schedulers|recipes|experiments|studies|...] [-cd DIR]
Tell what there is, one line each; with -cd, also what is in your own folder.

    cvtasks list
    cvtasks list tasks
    cvtasks list experiments -cd my_conf
""",
    "config": """\
cvtasks config [key=value ...] [--why KEY] [-cd DIR]
Print the configuration that `cvtasks train` would run with: resolved and checked. With --why, which file or override
set a key, and what that replaced.

    cvtasks config task=faster_rcnn dataset=coco
    cvtasks config task=faster_rcnn dataset=coco --why optimizer.lr
    cvtasks config task=faster_rcnn --why backbone
""",
    "completion": """\
cvtasks completion bash|zsh|fish
Print a script that completes verbs, groups, their options, and keys.

    eval "$(cvtasks completion bash)"                                  in ~/.bashrc
    eval "$(cvtasks completion zsh)"                                   in ~/.zshrc, after compinit
    cvtasks completion fish > ~/.config/fish/completions/cvtasks.fish
""",
}
