import time, pytest, random, collections
from lakehouse_assets_tests.tables.lab import Lab
from lakehouse_assets_tests.tables.crash import YAML, TABLES
from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.simulators.faulty_store import *
@pytest.mark.parametrize('fault',['BUSY','CUT_UPLOAD','CUT_DOWNLOAD','LOST_REQUEST','LOST_ANSWER','BROKEN_AFTER'])
def test_x(wire, tmp_path, fault):
    f=globals()[fault]; p=wire.proxy
    lab=Lab(wire.bucket.root+'/lake', YAML, storage=wire.bucket.storage); clean=Lab(tmp_path/'clean', YAML)
    rnd=random.Random(5); ends=collections.Counter(); shown=set()
    T=time.time(); bad=0
    n=0
    for r in range(6):
        rows=[{'k':rnd.choice('abcd'),'v':rnd.choice(['1','2','-1','x','5'])} for _ in range(4)]
        for l in (lab,clean):
            l.feed('one',rows[:2]); l.feed('two',rows[2:])
        clean.run()
        before=len(p.requests)
        k=rnd.randrange(1,(n or 150)); p.at(k,f)
        try: lab.run(); ends['ok']+=1
        except LakehouseError as e:
            ends[type(e).__name__]+=1
            if type(e).__name__ not in shown or type(e).__name__!='StoreFailed':
                shown.add(type(e).__name__); print('\n  ', r, k, p.struck[-1:], type(e).__name__, str(e)[:300].replace('\n',' '))
        except Exception as e:
            print('\n  !!!', r, k, p.struck[-1:], type(e).__name__, str(e)[:300].replace('\n',' ')); 
        struck=p.struck[-1:]
        if r==0 : n=len(p.requests)-before
        p.heal()
        lab.run()
        if r>1: n=max(n,len(p.requests)-before)
        for t in TABLES:
            if lab.rows(t)!=clean.rows(t): bad+=1; print('\n   DIFF',r,k,struck,t, len(lab.rows(t)),len(clean.rows(t)))
    print('\n@@',wire.bucket.root[:5],fault,dict(ends),n,f'{time.time()-T:.1f}s bad={bad}')
